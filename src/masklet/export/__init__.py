"""Models as files for other run times, checked against the model they came from."""

from masklet.export.program import Exported, export_program, read_description

__all__ = ["Exported", "export_program", "read_description"]
