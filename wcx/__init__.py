"""wcx: class-contrastive explanations of image classifiers: why this class, but not the others?"""

from wcx.contrasts import cotangent
from wcx.errors import WcxError
from wcx.explainer import Explainer, explain, upsample

__all__ = ["Explainer", "WcxError", "cotangent", "explain", "upsample"]
__version__ = "0.2.0"
