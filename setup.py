"""Packages: those below georsr/, and the two that have folders of their own, cli/ and qgis/.

Everything else about the project stands in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["georsr*"]), "georsr.cli", "georsr.qgis.georsr_processing"])
