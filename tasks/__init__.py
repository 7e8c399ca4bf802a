"""What a run does, one verb a file, each a Prefect task around one function of the core.

Tasks take references and settings, never data, and never a secret: addresses are turned into connections inside the
task. Finished tasks are kept by content: the same work is not done twice, whoever asks for it.
"""
