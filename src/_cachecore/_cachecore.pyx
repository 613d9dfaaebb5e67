# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False
"""The one file that knows both Python and the native core. It adapts; it decides nothing."""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libcpp cimport bool as cbool
from libcpp.memory cimport make_shared, shared_ptr
from libcpp.string cimport string
from libcpp.vector cimport vector

import os

import numpy as np

cdef extern from "Python.h":
    int PySlice_Unpack(object, Py_ssize_t*, Py_ssize_t*, Py_ssize_t*) except -1
    Py_ssize_t PySlice_AdjustIndices(Py_ssize_t, Py_ssize_t*, Py_ssize_t*, Py_ssize_t) noexcept
    bint PySlice_Check(object)

cdef extern from *:
    """
    #include <Python.h>
    #include <new>
    #include <stdexcept>
    #include <system_error>
    // The whole map from C++ to Python exceptions; called with the GIL held. OSError keeps its errno and so its subclass.
    static void copick_translate() {
      try { throw; }
      catch (const std::bad_alloc&) { PyErr_NoMemory(); }
      catch (const std::system_error& e) {
        PyObject* args = Py_BuildValue("is", e.code().value(), e.what());
        if (args) { PyErr_SetObject(PyExc_OSError, args); Py_DECREF(args); }
      }
      catch (const std::invalid_argument& e) { PyErr_SetString(PyExc_ValueError, e.what()); }
      catch (const std::exception& e) { PyErr_SetString(PyExc_RuntimeError, e.what()); }
    }
    """
    void copick_translate()

cdef extern from "<cstddef>" namespace "std" nogil:
    ctypedef unsigned char byte "std::byte"

cdef extern from "crc32c.hpp" namespace "copick" nogil:
    unsigned int c_crc32c "copick::crc32c"(const void*, size_t)
    unsigned int c_crc32c_portable "copick::crc32c_portable"(const void*, size_t)

cdef extern from "file.hpp" namespace "copick" nogil:
    cdef cppclass CBlock "const copick::Block":
        const byte* data()
        size_t size()
    ctypedef shared_ptr[CBlock] BlockRef "copick::BlockRef"
    cdef cppclass CDirectory "copick::Directory":
        CDirectory(const string&) except +copick_translate
        cbool network()
    int c_open_plain "copick::open_plain"(const string&, int)
    int c_walk_plain "copick::walk_plain"(const string&, int)
    void c_inject "copick::inject"(int, int)

cdef extern from "generations.hpp" namespace "copick" nogil:
    const size_t kNumbers
    cdef cppclass Number:
        pass
    cdef cppclass Watch:
        void accept(uint64_t)

cdef extern from "array.hpp" namespace "copick" nogil:
    const int kMaxDims
    cdef cppclass Region:
        int64_t start[16]
        int64_t step[16]
        int64_t count[16]
        int64_t stride[16]
        byte* out
    cdef cppclass CArray "copick::Array":
        CArray(uint64_t, const string&, vector[int64_t], vector[int64_t], size_t, string, string, cbool, vector[uint32_t],
               uint64_t) except +copick_translate
        uint64_t id()
        int ndim()
        size_t itemsize()
        size_t chunk_bytes()
        uint64_t chunk_count()
        cbool encoded()
        const CDirectory& directory()
        Watch& watch()
        string name(uint64_t) except +copick_translate
        void overlapping(const Region&, vector[uint64_t]&) except +copick_translate
        void inside(const int64_t*, const int64_t*, vector[uint64_t]&) except +copick_translate
        void assemble(uint64_t, const byte*, const int64_t*, const int64_t*, const int64_t*, byte*)
        cbool all_fill(const byte*)

cdef extern from "chunk_key.hpp" namespace "copick" nogil:
    cdef struct ChunkKey:
        uint64_t array
        uint64_t chunk

cdef extern from "touch_ring.hpp" namespace "copick" nogil:
    cdef struct Touch:
        ChunkKey key
        uint64_t stamp
    cdef cppclass TouchRing:
        vector[Touch] drain() except +copick_translate
        uint64_t pending()
        uint64_t lost()

cdef extern from "disk_index.hpp" namespace "copick" nogil:
    cdef enum class Policy "copick::Policy"(unsigned char):
        lru
        epoch
        pin
    cdef cppclass Need:
        uint64_t bytes
        uint64_t files
        uint32_t group
        uint64_t more
        uint64_t more_before
    cdef cppclass Row "copick::DiskIndex::Row":
        ChunkKey key
        uint64_t bytes
        uint64_t stamp
    cdef cppclass DiskIndex:
        uint64_t add(const ChunkKey&, uint64_t, uint64_t) except +copick_translate
        uint64_t remove(const ChunkKey&) except +copick_translate
        void remove_array(uint64_t) except +copick_translate
        void touch(const vector[Touch]&) except +copick_translate
        void replace(const vector[Row]&, uint64_t) except +copick_translate
        void assign(uint64_t, uint32_t) except +copick_translate
        cbool admits(Policy, uint32_t, uint64_t) except +copick_translate
        vector[Touch] victims(const Need&) except +copick_translate
        uint64_t bytes(uint32_t) except +copick_translate
        size_t size() except +copick_translate
        size_t memory() except +copick_translate

cdef extern from "block_table.hpp" namespace "copick" nogil:
    cdef struct Counts "copick::BlockTable::Counts":
        size_t entries
        size_t mappings
        size_t mapped_bytes
        size_t heap_bytes
        uint64_t evictions
    cdef cppclass BlockTable:
        Counts counts() except +copick_translate
        void drop(const ChunkKey&) except +copick_translate
        void drop_array(uint64_t) except +copick_translate
        vector[ChunkKey] held()  except +copick_translate

cdef extern from "clock.hpp" namespace "copick" nogil:
    uint64_t c_now_us "copick::now_us"()

cdef extern from "cache.hpp" namespace "copick" nogil:
    cdef struct CStats "copick::Cache::Stats":
        uint64_t chunk_hits
        uint64_t chunk_loads
        uint64_t chunk_misses
        uint64_t fills
        uint64_t corrupt
        uint64_t load_failures
        uint64_t inserts
        uint64_t insert_failures
        uint64_t absents
        uint64_t saved
    cdef cppclass CCache "copick::Cache":
        CCache(size_t, size_t) except +copick_translate
        void watch(const Number*)
        cbool current(const CArray&)
        cbool read(const CArray&, const Region&, int, vector[uint64_t]&) except +copick_translate
        cbool read_many(const CArray&, const vector[Region]&, int, vector[uint64_t]&) except +copick_translate
        int insert(const CArray&, uint64_t, const void*, size_t) except +copick_translate
        int insert_box(const CArray&, const byte*, const int64_t*, const int64_t*, const int64_t*, vector[uint64_t]&) except +copick_translate
        int insert_absent(const CArray&, uint64_t) except +copick_translate
        cbool contains(const CArray&, uint64_t) except +copick_translate
        int remove(const CArray&, uint64_t) except +copick_translate
        BlockRef payload(const CArray&, uint64_t, cbool) except +copick_translate
        BlockRef block(const CArray&, uint64_t) except +copick_translate
        void keep(const CArray&, uint64_t, const void*, size_t) except +copick_translate
        CStats stats()
        cbool check() except +copick_translate
        BlockTable& blocks()
        TouchRing ring
        DiskIndex index

cdef extern from "buffer_pool.hpp" namespace "copick" nogil:
    cdef cppclass BufferPool:
        BufferPool(size_t) except +copick_translate
        void* take(size_t) except +copick_translate
        void give(void*, size_t)
        void trim(uint64_t)
        size_t idle_bytes() except +copick_translate


cdef object _ndarray = np.ndarray
cdef object _empty = np.empty
cdef object _full = slice(None)

# Result buffers wait here for their next use. Never freed: arrays given to the user may outlive the module.
cdef BufferPool* _pool = new BufferPool(<size_t>1 << 30)

cdef size_t _SMALL = 64 << 10            # below this, NumPy's own allocator is as good
cdef size_t _PARALLEL = <size_t>32 << 20  # above this, one region is copied by several threads
cdef uint64_t _LAST = <uint64_t>-1       # later than any time stamp
cdef int _THREADS = min(4, os.cpu_count() or 1)


cdef class _Buffer:
    """Memory of the pool behind one result; goes back when the last array on it is gone."""

    cdef void* data
    cdef size_t size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, <Py_ssize_t>self.size, 0, flags)

    def __dealloc__(self):
        if self.data != NULL:
            _pool.give(self.data, self.size)


cdef class Payload:
    """Read-only bytes of one chunk; they stay valid while this lives, even if the chunk is evicted meanwhile."""

    cdef BlockRef block

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*>self.block.get().data(), <Py_ssize_t>self.block.get().size(), 1, flags)

    def __len__(self):
        return self.block.get().size()


cdef object _new_result(tuple shape, object dtype, size_t size, byte** data):
    """An array of undefined content and where its bytes are."""
    cdef _Buffer buffer
    if size < _SMALL:
        result = _empty(shape, dtype)
        data[0] = <byte*><uintptr_t>result.__array_interface__["data"][0]
        return result
    buffer = _Buffer.__new__(_Buffer)
    buffer.data = _pool.take(size)
    buffer.size = size
    data[0] = <byte*>buffer.data
    return _ndarray(shape, dtype, buffer)


cdef object _checked(object out, tuple shape, object dtype):
    if out.shape != shape or out.dtype != dtype or not out.flags.writeable:
        state = "" if out.flags.writeable else " (read-only)"
        raise ValueError(f"out= must be a writable {shape} {dtype} array, not {out.shape} {out.dtype}{state}")
    return out


def recycled(tuple shape, object dtype):
    """An array of undefined content from the pool of result buffers."""
    cdef byte* data
    dtype = np.dtype(dtype)
    cdef size_t size = dtype.itemsize
    for n in shape:
        size *= <size_t>n
    return _new_result(shape, dtype, size, &data)


cdef class Cache:
    """One process's view of one cache folder. Thread-safe; not picklable (open another one in the other process)."""

    cdef CCache* core
    cdef list watched

    def __cinit__(self, size_t max_mappings=30000, size_t decoded_bytes=<size_t>256 << 20):
        self.core = new CCache(max_mappings, decoded_bytes)
        self.watched = []

    def __dealloc__(self):
        del self.core

    def __reduce__(self):
        raise TypeError("a native cache belongs to one process and cannot be pickled")

    def watch(self, numbers):
        """Take `numbers` (`NUMBERS` of uint64, which may change at any time) for what tells that an array was discarded."""
        cdef const uint64_t[::1] view = numbers
        if <size_t>view.shape[0] != kNumbers:
            raise ValueError(f"{kNumbers} numbers are needed, not {view.shape[0]}")
        self.watched.append(view)  # another thread may be reading those that came before
        self.core.watch(<const Number*>&view[0])

    def drain(self):
        """Touches since the last call as three uint64 arrays: array id, chunk, microseconds. One caller at a time."""
        cdef vector[Touch] touches
        with nogil:
            touches = self.core.ring.drain()
            self.core.index.touch(touches)
        result = np.empty((3, touches.size()), np.uint64)
        cdef uint64_t[:, ::1] rows = result
        cdef size_t i
        for i in range(touches.size()):
            rows[0, i] = touches[i].key.array
            rows[1, i] = touches[i].key.chunk
            rows[2, i] = touches[i].stamp
        return result

    def touches_pending(self):
        return self.core.ring.pending()

    def index_add(self, uint64_t array, uint64_t chunk, uint64_t size, uint64_t stamp=0):
        """Note a chunk file of `size` bytes; returns the bytes noted for it before."""
        cdef ChunkKey key = ChunkKey(array, chunk)
        return self.core.index.add(key, size, stamp if stamp else c_now_us())

    def index_replace(self, const uint64_t[:, :] rows, uint64_t since):
        """Know the chunk files in `rows` (array id, chunk, bytes, last use in microseconds; 4 × n), and those used at `since` or later."""
        cdef Py_ssize_t i
        cdef vector[Row] found
        if rows.shape[0] != 4:
            raise ValueError(f"4 rows are needed, not {rows.shape[0]}")
        with nogil:
            found.resize(<size_t>rows.shape[1])
            for i in range(rows.shape[1]):
                found[i].key.array, found[i].key.chunk = rows[0, i], rows[1, i]
                found[i].bytes, found[i].stamp = rows[2, i], rows[3, i]
            self.core.index.replace(found, since)

    def index_remove(self, uint64_t array, uint64_t chunk):
        cdef ChunkKey key = ChunkKey(array, chunk)
        return self.core.index.remove(key)

    def index_touch(self, const uint64_t[:, :] rows):
        """Note uses of chunk files, as `drain` returns them (3 × n)."""
        cdef Py_ssize_t i
        cdef vector[Touch] touches
        if rows.shape[0] != 3:
            raise ValueError(f"3 rows are needed, not {rows.shape[0]}")
        touches.resize(<size_t>rows.shape[1])
        for i in range(rows.shape[1]):
            touches[i].key.array, touches[i].key.chunk, touches[i].stamp = rows[0, i], rows[1, i], rows[2, i]
        self.core.index.touch(touches)

    def index_bytes(self, uint32_t group=0):
        """Bytes of all chunk files that are known, or of those of a group."""
        return self.core.index.bytes(group)

    def assign(self, uint64_t array, uint32_t group):
        """Count the chunks of an array to a group; 0 is none."""
        self.core.index.assign(array, group)

    def admits(self, str policy, uint32_t group=0, uint64_t stale_before=0):
        """Whether a chunk may come in though its group (0: the cache) is full.

        `stale_before`: when the epoch before the last one began, in microseconds; 0 if there was none.
        """
        cdef Policy chosen
        if policy == "lru":
            chosen = Policy.lru
        elif policy == "epoch":
            chosen = Policy.epoch
        elif policy == "pin":
            chosen = Policy.pin
        else:
            raise ValueError(f"policy {policy!r} is not one of lru, epoch, pin")
        return self.core.index.admits(chosen, group, stale_before)

    def victims(self, uint64_t size, uint64_t files=0, uint32_t group=0, uint64_t more=0, uint64_t more_before=_LAST):
        """(array id, chunk, last use) of the least recently used chunks that free `size` bytes and `files` files, coldest first.

        `group`: only of this group. `more`: so many bytes in addition, of chunks last used before `more_before` (microseconds).
        There may be fewer than asked for.
        """
        cdef vector[Touch] chosen
        cdef Need need
        need.bytes, need.files, need.group, need.more, need.more_before = size, files, group, more, more_before
        with nogil:
            chosen = self.core.index.victims(need)
        return [(each.key.array, each.key.chunk, each.stamp) for each in chosen]

    def drop_block(self, uint64_t array, uint64_t chunk):
        """Forget the mapping or decoded copy of one chunk."""
        cdef ChunkKey key = ChunkKey(array, chunk)
        self.core.blocks().drop(key)

    def drop_array(self, uint64_t array):
        """Forget everything about an array: it is gone from disk."""
        self.core.blocks().drop_array(array)
        self.core.index.remove_array(array)

    def held(self):
        """(array id, chunk) of every chunk held in memory."""
        return [(key.array, key.chunk) for key in self.core.blocks().held()]

    def stats(self):
        cdef CStats s = self.core.stats()
        cdef Counts c = self.core.blocks().counts()
        return {
            "chunk_hits": s.chunk_hits, "chunk_loads": s.chunk_loads, "chunk_misses": s.chunk_misses, "fills": s.fills,
            "corrupt": s.corrupt, "load_failures": s.load_failures, "inserts": s.inserts,
            "insert_failures": s.insert_failures, "absents": s.absents, "saved_bytes": s.saved, "held": c.entries, "mappings": c.mappings,
            "mapped_bytes": c.mapped_bytes, "decoded_bytes": c.heap_bytes, "dropped": c.evictions,
            "index_chunks": self.core.index.size(), "index_bytes": self.core.index.bytes(0),
            "index_memory": self.core.index.memory(), "touches_lost": self.core.ring.lost(),
        }

    def check(self):
        """Recount everything; False if any total is wrong."""
        return self.core.check()


cdef class Array:
    """One version of one cached array: where its chunk files lie and how they divide it.

    `fill` is the fill value as `dtype.itemsize` bytes, `prefix` what stands before the chunk's coordinates in file names.
    The array counts as discarded when the sum of the watched numbers in `slots` is no longer `seen`.
    Raises OSError if the directory cannot be opened, ValueError for impossible shapes.
    """

    cdef Cache cache
    cdef shared_ptr[CArray] core
    cdef readonly tuple shape
    cdef readonly tuple chunks
    cdef readonly object dtype
    cdef readonly str path

    def __cinit__(self, Cache cache, uint64_t id, str directory, tuple shape, tuple chunks, object dtype, bytes fill,
                  str prefix="", bint encoded=False, tuple slots=(), uint64_t seen=0):
        cdef vector[int64_t] c_shape = shape
        cdef vector[int64_t] c_chunks = chunks
        cdef vector[uint32_t] c_slots = slots
        self.cache, self.shape, self.chunks, self.dtype, self.path = cache, shape, chunks, np.dtype(dtype), directory
        if self.dtype.hasobject:
            raise ValueError(f"{self.dtype} holds Python objects and cannot be cached")
        self.core = shared_ptr[CArray](new CArray(id, os.fsencode(directory), c_shape, c_chunks, self.dtype.itemsize, fill,
                                                  prefix.encode(), encoded, c_slots, seen))

    @property
    def id(self):
        return self.core.get().id()

    @property
    def encoded(self):
        return self.core.get().encoded()

    @property
    def chunk_bytes(self):
        """Bytes of one decoded chunk, edge chunks included."""
        return self.core.get().chunk_bytes()

    @property
    def chunk_count(self):
        return self.core.get().chunk_count()

    @property
    def current(self):
        """Whether it was not discarded, by whatever process, since it was looked up."""
        return self.cache.core.current(self.core.get()[0])

    def accept(self, uint64_t seen):
        """It was looked up again, and is still there."""
        self.core.get().watch().accept(seen)

    cdef int _check(self, uint64_t chunk) except -1:
        if chunk >= self.core.get().chunk_count():
            raise IndexError(f"chunk {chunk} of an array of {self.core.get().chunk_count()} chunks")
        return 0

    @property
    def on_network(self):
        return self.core.get().directory().network()

    def name(self, uint64_t chunk):
        """File name of a chunk, relative to the array's directory."""
        self._check(chunk)
        return self.core.get().name(chunk).decode()

    def overlapping(self, tuple start, tuple step, tuple count):
        """Chunks that hold an element of the box, ascending."""
        cdef Region region
        cdef vector[uint64_t] chunks
        for d in range(len(self.shape)):
            region.start[d], region.step[d], region.count[d] = start[d], step[d], count[d]
        self.core.get().overlapping(region, chunks)
        return list(chunks)

    def inside(self, tuple origin, tuple extent):
        """Chunks that a box of the array holds whole (as far as the array reaches), ascending."""
        cdef int64_t c_origin[16]
        cdef int64_t c_extent[16]
        cdef vector[uint64_t] chunks
        for d in range(len(self.shape)):
            c_origin[d], c_extent[d] = origin[d], extent[d]
        self.core.get().inside(c_origin, c_extent, chunks)
        return list(chunks)

    def read(self, slices, out=None):
        """The region as an array (a recycled buffer, or `out`) and the chunks it still lacks (None: it is complete).

        (None, []) if the array was discarded before this call.
        `slices` as NumPy understands them, any step; missing trailing ones are full. Raises TypeError for anything else,
        IndexError for too many, ValueError if `out` does not fit.
        """
        cdef Region region
        cdef Py_ssize_t start, stop, step, n, size
        cdef int ndim = <int>len(self.shape)
        cdef int given = <int>len(slices)
        cdef int d, threads
        cdef size_t total = self.core.get().itemsize()
        cdef int64_t stride
        cdef byte* data
        cdef vector[uint64_t] missing
        cdef cbool current
        if given > ndim:
            raise IndexError(f"{given} slices for an array of {ndim} axes {self.shape}")
        for d in range(ndim):
            item = slices[d] if d < given else _full
            if not PySlice_Check(item):
                raise TypeError(f"axis {d}: a slice is needed, not {type(item).__name__} {item!r}")
            size = self.shape[d]
            PySlice_Unpack(item, &start, &stop, &step)
            n = PySlice_AdjustIndices(size, &start, &stop, step)
            region.start[d], region.step[d], region.count[d] = start, step, n
            total *= <size_t>n
        shape = tuple([region.count[d] for d in range(ndim)])
        if out is None:
            out = _new_result(shape, self.dtype, total, &data)
            stride = <int64_t>self.core.get().itemsize()
            for d in range(ndim - 1, -1, -1):
                region.stride[d] = stride
                stride *= region.count[d]
        else:
            _checked(out, shape, self.dtype)
            data = <byte*><uintptr_t>out.__array_interface__["data"][0]
            for d in range(ndim):
                region.stride[d] = out.strides[d]
        if total == 0:
            return (out, None) if self.current else (None, [])
        for d in range(ndim):
            if region.step[d] < 0:  # read forwards, written backwards
                region.start[d] += (region.count[d] - 1) * region.step[d]
                region.step[d] = -region.step[d]
                data += (region.count[d] - 1) * region.stride[d]
                region.stride[d] = -region.stride[d]
            if region.count[d] == 1:  # a step of any size then means nothing, and a huge one would overflow
                region.step[d] = 1
        region.out = data
        threads = _THREADS if total >= _PARALLEL else 1
        with nogil:
            current = self.cache.core.read(self.core.get()[0], region, threads, missing)
        return (out, (list(missing) if missing.size() else None)) if current else (None, [])

    def patches(self, const int64_t[:, ::1] starts, tuple size, out=None, int threads=0):
        """Boxes of one size, (n, *size), and the chunks they still lack. The caller has checked that they lie inside.

        (None, []) if the array was discarded before this call.
        """
        cdef Py_ssize_t n = starts.shape[0], i
        cdef int ndim = <int>len(self.shape)
        cdef int d
        cdef size_t box = self.core.get().itemsize()
        cdef int64_t stride[16]
        cdef int64_t between
        cdef byte* data
        cdef vector[Region] regions
        cdef Region region
        cdef vector[uint64_t] missing
        cdef cbool current
        if starts.shape[1] != ndim or len(size) != ndim:
            raise ValueError(f"starts and size must have {ndim} axes")
        shape = (n, *size)
        for d in range(ndim - 1, -1, -1):
            stride[d] = <int64_t>box
            box *= <size_t>size[d]
        between = <int64_t>box
        if out is None:
            out = _new_result(shape, self.dtype, box * <size_t>n, &data)
        else:
            _checked(out, shape, self.dtype)
            data = <byte*><uintptr_t>out.__array_interface__["data"][0]
            between = out.strides[0]
            for d in range(ndim):
                stride[d] = out.strides[d + 1]
        if box == 0 or n == 0:
            return (out, None) if self.current else (None, [])
        for d in range(ndim):
            region.step[d] = 1
            region.count[d] = size[d]
            region.stride[d] = stride[d]
        for i in range(n):
            for d in range(ndim):
                region.start[d] = starts[i, d]
            region.out = data + i * between
            regions.push_back(region)
        if threads <= 0:
            threads = _THREADS
        with nogil:
            current = self.cache.core.read_many(self.core.get()[0], regions, threads, missing)
        return (out, (list(missing) if missing.size() else None)) if current else (None, [])

    def insert_box(self, data, tuple origin):
        """Write every chunk that lies in `data`, an array of this dtype that lies at `origin`.

        Returns (errno, chunks written); chunks of nothing but fill value become markers and are not counted.
        """
        cdef int64_t c_origin[16]
        cdef int64_t extent[16]
        cdef int64_t stride[16]
        cdef vector[uint64_t] written
        cdef int error
        if data.dtype != self.dtype or data.ndim != len(self.shape) or self.encoded:
            raise ValueError(f"a raw {len(self.shape)}-axis {self.dtype} array is needed, not {data.ndim}-axis {data.dtype}")
        for d in range(len(self.shape)):
            c_origin[d], extent[d], stride[d] = origin[d], data.shape[d], data.strides[d]
        cdef const byte* first = <const byte*><uintptr_t>data.__array_interface__["data"][0]
        with nogil:
            error = self.cache.core.insert_box(self.core.get()[0], first, c_origin, extent, stride, written)
        return error, list(written)

    def assemble(self, uint64_t chunk, data, tuple origin):
        """The whole decoded chunk as a C-ordered array cut out of `data` at `origin`, or None if it is all fill value."""
        self._check(chunk)
        cdef int64_t c_origin[16]
        cdef int64_t extent[16]
        cdef int64_t stride[16]
        cdef byte* to
        cdef cbool empty
        if data.dtype != self.dtype or data.ndim != len(self.shape):
            raise ValueError(f"a {len(self.shape)}-axis {self.dtype} array is needed, not {data.ndim}-axis {data.dtype}")
        for d in range(len(self.shape)):
            c_origin[d], extent[d], stride[d] = origin[d], data.shape[d], data.strides[d]
        cdef const byte* first = <const byte*><uintptr_t>data.__array_interface__["data"][0]
        whole = _new_result(self.chunks, self.dtype, self.core.get().chunk_bytes(), &to)
        with nogil:
            self.core.get().assemble(chunk, first, c_origin, extent, stride, to)
            empty = self.core.get().all_fill(to)
        return None if empty else whole

    def insert(self, uint64_t chunk, const unsigned char[::1] payload):
        """Write one chunk file; returns errno."""
        self._check(chunk)
        cdef int error
        cdef const void* data = &payload[0] if payload.shape[0] else NULL
        with nogil:
            error = self.cache.core.insert(self.core.get()[0], chunk, data, <size_t>payload.shape[0])
        return error

    def insert_absent(self, uint64_t chunk):
        """Remember that the source has no such chunk; returns errno."""
        self._check(chunk)
        return self.cache.core.insert_absent(self.core.get()[0], chunk)

    def contains(self, uint64_t chunk):
        """Whether the chunk or its marker is on disk; the content is not checked."""
        self._check(chunk)
        return self.cache.core.contains(self.core.get()[0], chunk)

    def remove(self, uint64_t chunk):
        """Remove a chunk and its marker; returns errno, 0 if there was nothing."""
        self._check(chunk)
        return self.cache.core.remove(self.core.get()[0], chunk)

    def payload(self, uint64_t chunk):
        """The checked bytes of a chunk file (buffer protocol), None if there is none or it was corrupt."""
        self._check(chunk)
        cdef Payload result = Payload.__new__(Payload)
        with nogil:
            result.block = self.cache.core.payload(self.core.get()[0], chunk, True)
        return None if result.block.get() == NULL else result

    def block(self, uint64_t chunk):
        """The decoded bytes of a chunk (buffer protocol; empty: all fill value), None if it is not to be had locally."""
        self._check(chunk)
        cdef Payload result = Payload.__new__(Payload)
        with nogil:
            result.block = self.cache.core.block(self.core.get()[0], chunk)
        return None if result.block.get() == NULL else result

    def keep(self, uint64_t chunk, const unsigned char[::1] decoded):
        """Keep a decoded chunk of an encoded array in memory."""
        self._check(chunk)
        if <size_t>decoded.shape[0] != self.core.get().chunk_bytes():
            raise ValueError(f"a decoded chunk has {self.core.get().chunk_bytes()} bytes, not {decoded.shape[0]}")
        with nogil:
            self.cache.core.keep(self.core.get()[0], chunk, &decoded[0], <size_t>decoded.shape[0])


def crc32c(const unsigned char[::1] data, bint portable=False):
    """CRC-32C of bytes; `portable` forces the table version."""
    cdef const void* first = &data[0] if data.shape[0] else NULL
    cdef size_t size = <size_t>data.shape[0]
    cdef unsigned int result
    with nogil:
        result = c_crc32c_portable(first, size) if portable else c_crc32c(first, size)
    return result


NUMBERS = kNumbers
"""How many numbers `Cache.watch` takes."""


def on_network(str directory):
    """Whether a directory lies on a network filesystem, where mappings are unsafe. Raises OSError."""
    cdef CDirectory* opened = new CDirectory(<string>os.fsencode(directory))
    cdef cbool network = opened.network()
    del opened
    return network


def open_plain(str path, int flags, cbool walk=False):
    """A descriptor of a file or directory. Raises OSError: also if any part of its path is a symbolic link.

    `walk`: for tests, as systems do that cannot do it in one call. POSIX only.
    """
    cdef string name = os.fsencode(path)
    cdef int fd
    with nogil:
        fd = c_walk_plain(name, flags) if walk else c_open_plain(name, flags)
    if fd < 0:
        raise OSError(errno, os.strerror(errno), path)
    return fd


def pool_idle_bytes():
    """Bytes of result buffers that wait for their next use."""
    return _pool.idle_bytes()


def pool_trim(double older_than_s):
    """Free the result buffers that have waited longer than this."""
    _pool.trim(c_now_us() - <uint64_t>(older_than_s * 1e6))


def inject(int step, int action):
    """For tests: at the next commit step `step` (1..7) fail with errno `action`, or die by SIGKILL if it is -1."""
    c_inject(step, action)
