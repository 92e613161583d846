"""Stages of the DeepGCN pipeline: plain functions over files, and the network they share."""
