"""The local cache of other layers."""

from __future__ import annotations

from copick.cache.manager import CacheManager
from copick.cache.store import CachingZarrStore
from copick.config import CopickConfigCache

__all__ = ["CacheManager", "CachingZarrStore", "CopickConfigCache"]
