"""The doctor: find what makes a replay of an app differ by itself, and the line that does it.

It replays a captured request many times, each run in a process of its own. Between two runs it changes one
thing alone: the clock, uuids, random numbers, the order of sets, the order in which calls complete, or the
environment. What then differs in the inputs of calls or in the response is caused by that, so nothing is
guessed. The doctor changes the sources line by line too, which names the lines.

In the parent process: ``examination.py`` decides what to change, ``run_processes.py`` starts the runs,
``run_comparison.py`` compares them, ``diagnosis.py`` is what comes out.
In the process of a run: ``run_program.py`` is its program, ``source_reads.py`` decides what is changed
where, ``clock.py``, ``chance.py``, ``surroundings.py`` and ``set_order.py`` change it,
``instrumented_code.py`` compiles the user's code so that it can be seen to iterate sets, and
``observation.py`` notes what came out.
"""
