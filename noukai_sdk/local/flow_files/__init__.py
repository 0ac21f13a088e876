"""Flows from files: one YAML or Python file per flow, found by its address.

:class:`~.catalog.FlowCatalog` finds ``<directory>/<org>/<project>/<slug>.yaml`` and reloads what has
changed. ``flow_file`` turns one file into a :class:`~noukai_sdk.local.workflow.plan.Flow` or a list of
problems with line and field: ``flow_tree`` parses YAML and remembers lines, ``flow_entry`` says which
keys a file may have, ``python_files`` loads the functions it names. ``bundled`` holds the samples.
"""
