"""Finds the packages of the distribution: flowparts, and the components within it."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages("containers"),
        *(f"flowparts.{package}" for package in find_packages(include=["components", "components.*"])),
    ]
)
