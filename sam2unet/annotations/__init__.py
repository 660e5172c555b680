"""Converts annotations: between masks and the formats of other tools. `formats.FORMATS` lists the formats."""
