"""Table 1: the masking experiment for datasets x models x methods x contrasts, one table from all records.

wcx table1 datasets=[cub,cars] models=[vgg16] methods=[gradcam] contrasts=[original,weighted] limit=100
wcx table1 datasets=[cub] masks=[sign,equal] seeds=[0,1,2]     two protocols, three trained networks
wcx table1 collect=only                                       the tables of all records there are
wcx table1 collect=only threshold=0.3                         of their images with p_t2 above 0.3

A network that has no checkpoint is fine-tuned first. executor=ray computes on all GPUs and machines that there are.
"""

from wcx.cli.commands.grid import run

__all__ = ["run"]
