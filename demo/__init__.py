from cli.interruption import one_line_instead_of_a_traceback, runs_as_command

if runs_as_command():
    one_line_instead_of_a_traceback()
