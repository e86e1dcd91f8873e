"""The documentation as a site that works from disk: pages, and what is generated of registry, cards, parsers and code.

Sphinx builds it (the extra ``docs``); importing this package imports neither Sphinx nor torch.
"""

from zoo.documentation.site import build_site, site_folder, stale

__all__ = ["build_site", "site_folder", "stale"]
