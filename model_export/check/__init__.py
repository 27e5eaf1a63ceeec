"""The trainability report: will this model train on a phone, and on which ones?

Everything that can crash runs in a child process: the export under TensorFlow, each interpreter. A child that dies or
hangs is a finding of the report, and never the end of the command.
"""
