"""Run flows in this process, and call models directly.

``__init__.pyi`` lists the public names. Each is loaded when it is first used.

Example::

    from noukai_sdk.local import Executor, LlmConfig, Node, Workflow

    workflow = Workflow("Report")
    draft = workflow.add_node(Node.agent("Draft", "Write about {{message}}"))
    check = workflow.add_node(Node.agent("Check", "Find mistakes in {{node.Draft}}"))
    workflow.connect(draft, check)

    result = Executor(LlmConfig.offline()).execute(workflow, inputs={"message": "cats"})
    print(result.get_node_output("Check"))
"""

from __future__ import annotations

from .. import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
