"""Run the work of a job on a Dask cluster."""
