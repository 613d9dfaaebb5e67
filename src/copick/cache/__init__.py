"""The chunk cache: decoded chunks of remote arrays as files on a local disk, shared by every process of the machine.

Reading goes from the top down:

    array.py    CachedArray: a region is copied out of cached chunks by the native core; what is missing is fetched
    store.py    CachingZarrStore: the same chunks as a zarr store
    entry.py    one version of one array on disk: opened, begun, chunks put into it
    source.py   the array at its source, with its metadata fetched once; decode.py: its chunks into recycled memory
    geometry.py how a source array is divided into cached chunks, and the metadata that describes them to zarr
    manager.py  CacheManager: the folder of one cache, fetching once, warnings, statistics
    budget.py   what may come in when the folder is full, and what goes for it; folder.py: what lies in it
    usage.py    how full it is; epochs.py: when epochs of training began, which one of the policies goes by
    journal.py  entries.db: what lies in the folder and when it was used; a hint that can be lost
    generations.py what changed, told to all processes; items.py: what lies in the folder, for those who look after it
    locks.py    locks between processes; pool.py: worker threads; info.py: `.cache_info` files

A failure of the cache never reaches a reader: it is counted, logged once, and the data comes from the source.
"""

from copick.cache.info import CacheInfo

__all__ = ["CacheInfo"]
