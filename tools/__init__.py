"""Generators: images, wheel, site, README, dashboards, and templates of new components and pipelines."""
