"""QGIS seen from georsr: profiles of its users, and the plugin that is put into them.

The plugin itself, ``georsr.qgis.georsr_processing``, is imported by QGIS only.
"""
