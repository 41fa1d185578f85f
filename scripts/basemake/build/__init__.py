"""The description of a build: config, regions, manifest, layout, records and graph of jobs."""
