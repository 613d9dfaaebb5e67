// CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected): the checksum of zarr's `crc32c` codec.
#pragma once
#include <cstddef>
#include <cstdint>

namespace copick {

// The CRC of `size` bytes, in hardware where the processor has it (SSE4.2, ARMv8), chosen at run time.
std::uint32_t crc32c(const void* data, std::size_t size) noexcept;

// The same, always from tables: the fallback, and what tests compare the hardware with.
std::uint32_t crc32c_portable(const void* data, std::size_t size) noexcept;

}  // namespace copick
