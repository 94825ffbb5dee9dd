"""A job is one (dataset, model) block of an experiment; `run` fills its records, resumes them, and `plan` tells the cost."""

from wcx.pipeline.checked import check
from wcx.pipeline.executors import Executor, Local
from wcx.pipeline.filling import plan, run
from wcx.pipeline.job import Job

__all__ = ["Executor", "Job", "Local", "check", "plan", "run"]
