"""Prepare tables for estimators: split and preprocessing."""
