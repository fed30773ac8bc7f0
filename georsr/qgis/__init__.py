"""Install the plugin into the profiles of QGIS.

The plugin itself, ``georsr.qgis.georsr_processing``, is imported by QGIS only.
"""
