"""Workflows as data: what runs, in which order, with which inputs. Nothing is executed here.

A :class:`~.node.Node` is one step. A :class:`~.workflow.Workflow` connects nodes in code;
:mod:`~noukai_sdk.local.flow_files` reads them from files. Both pass through ``validation``, which
reports every problem, and become a :class:`~.plan.Plan` (or a :class:`~.plan.Flow`, a plan with an
address) that the engine runs. ``templates`` parses texts with ``{{references}}``, ``expressions`` the
conditions; ``transforms`` and ``tool_functions`` are what transform nodes and agents can call.
"""
