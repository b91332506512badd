"""A YAML -> the whole matrix of datasets, trainings, sweeps and reports, on one machine or a cluster.

`config` reads the YAML, `matrix` makes the jobs of it (pure data), `run` gives them to Snakemake (`Snakefile`), which
starts `stages.run_stage` for each; `folder` is where everybody leaves word, and `status` reads it.
"""
