"""From opened datasets and loaded models to records: what run.py and scripts/ call, with plain arguments."""

from wcx.pipeline.job import Job, check_method, output_labels, plan, run, subset_label
from wcx.pipeline.masking import MaskingJob, activation_methods, plan_masking, run_masking, samples
from wcx.pipeline.perturbation import PerturbationJob

__all__ = [
    "Job",
    "MaskingJob",
    "PerturbationJob",
    "activation_methods",
    "check_method",
    "output_labels",
    "plan",
    "plan_masking",
    "run",
    "run_masking",
    "samples",
    "subset_label",
]
