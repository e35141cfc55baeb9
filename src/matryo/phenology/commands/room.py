"""The room's commands by name; a command's module is imported when the command is named, not before."""

from cyclopts import App

COMMANDS = {
    "demo": "Do the whole job at once on a synthetic site: fit, drivers, and an HTML report.",
    "fit": "Fit season curves to NDVI series: dates with standard errors, and flags.",
    "drivers": "Explain the dates by soil temperature and weather: models, SHAP, slopes.",
    "report": "Write the HTML report of a drivers run, or of a fit.",
    "raster": "Fit every pixel of a NetCDF, Zarr or GeoTIFF stack, block by block.",
    "recipes": "List the named configs, or show one.",
}

app = App(name="phenology", help="NDVI series: the season's dates with their errors, and what drives them.")
for _place, (_name, _line) in enumerate(COMMANDS.items()):
    app.command(f"matryo.phenology.commands.{_name}:{_name}", name=_name, help=_line, sort_key=_place)
