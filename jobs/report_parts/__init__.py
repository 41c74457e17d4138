"""The parts of the run report: facts gathered from files, charts as SVG, the contact sheet, the page."""
