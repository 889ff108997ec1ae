"""The command line: one module per command of ``dynunet-bundle``, with its options, and what it prints.

A command is a module with ``add_arguments(parser)`` and ``run(arguments)``; its docstring is the text of ``--help``.
Large libraries are imported inside of ``run``, so that ``--help`` and wrong arguments are answered at once.
"""
