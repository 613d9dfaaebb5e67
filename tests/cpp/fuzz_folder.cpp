// For libFuzzer: a cache folder of any content, read and written in any order by the native core.
//
// The input describes an array, then what happens: files of any bytes (with a right checksum or without) take the place of chunks,
// regions are read and written, blocks are dropped, chunks removed. A model knows which bytes each chunk may show.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>

#include "cache.hpp"
#include "check.hpp"
#include "crc32c.hpp"
using namespace copick;

namespace {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}
  bool empty() const { return at_ == end_; }
  std::uint8_t byte() { return empty() ? 0 : *at_++; }
  std::int64_t below(std::int64_t n) { return n <= 0 ? 0 : (byte() | byte() << 8) % n; }
  std::int64_t any() {
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | byte();
    return static_cast<std::int64_t>(value);
  }
  std::string bytes(std::size_t n) {
    std::string out;
    while (out.size() < n) out += static_cast<char>(empty() ? static_cast<std::uint8_t>(out.size() * 37) : byte());
    return out;
  }

 private:
  const std::uint8_t *at_, *end_;
};

void put(const std::string& path, const std::string& content) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
  std::ofstream(path, std::ios::binary) << content;
}

std::string with_checksum(std::string payload) {
  const std::uint32_t crc = crc32c(payload.data(), payload.size());
  for (int i = 0; i < 4; ++i) payload += static_cast<char>(crc >> 8 * i);
  return payload;
}

// Constructing from numbers of any size either works or says that they are impossible.
void impossible_shapes(Input& in, const std::string& folder) {
  const std::size_t axes = in.byte() % 18;
  std::vector<std::int64_t> shape, chunk;
  for (std::size_t d = 0; d < axes; ++d) shape.push_back(in.any()), chunk.push_back(in.any());
  const std::size_t itemsize = in.byte() % 20;
  std::vector<std::uint32_t> slots{static_cast<std::uint32_t>(in.any())};
  try {
    const Array array(1, folder, shape, chunk, itemsize, std::string(in.byte() % 20, 'f'), "", false, slots, 0);
    if (array.chunk_count()) array.name(static_cast<std::uint64_t>(in.any()) % array.chunk_count());
  } catch (const std::invalid_argument&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Scratch scratch;
  static int run = 0;
  const std::string folder = scratch.path + "/" + std::to_string(run++);
  std::filesystem::create_directory(folder);
  Input in(data, size);
  if (in.byte() % 8 == 0) impossible_shapes(in, folder);

  const int axes = 1 + in.byte() % 3;
  std::vector<std::int64_t> shape, chunk;
  for (int d = 0; d < axes; ++d) shape.push_back(1 + in.byte() % 9), chunk.push_back(1 + in.byte() % 5);
  const std::size_t itemsize = std::size_t{1} << in.byte() % 5;
  const std::string fill = in.bytes(itemsize);
  const bool encoded = in.byte() % 2;
  const Array array(7, folder, shape, chunk, itemsize, fill, in.byte() % 2 ? "c/" : "", encoded);
  Cache cache(static_cast<std::size_t>(in.byte() % 4), std::size_t{1} << in.byte() % 12);

  // What each chunk may show: what was last put there whole. Chunks that are held may show what was there when they were loaded.
  std::map<std::uint64_t, std::vector<std::string>> shown;
  const auto allows = [&](std::uint64_t id, const std::byte* block, std::size_t n) {
    for (const std::string& each : shown[id])
      if (each.size() == n && !std::memcmp(each.data(), block, n)) return true;
    return false;
  };
  for (int step = 0; step < 64 && !in.empty(); ++step) {
    const auto id = static_cast<std::uint64_t>(in.below(static_cast<std::int64_t>(array.chunk_count())));
    const std::string path = folder + "/" + array.name(id);
    switch (in.byte() % 10) {
      case 0: {  // any bytes
        std::string content = in.bytes(in.byte() % 2 ? array.chunk_bytes() + 4 : static_cast<std::size_t>(in.below(300)));
        if (content.size() >= 4 && content == with_checksum(content.substr(0, content.size() - 4)))
          shown[id].push_back(content.substr(0, content.size() - 4));
        put(path, content);
        break;
      }
      case 1: {  // with the right checksum
        const std::string payload = in.bytes(in.byte() % 4 ? array.chunk_bytes() : static_cast<std::size_t>(in.below(300)));
        put(path, with_checksum(payload));
        shown[id].push_back(payload);
        break;
      }
      case 2: {  // something else
        std::error_code ignored;
        std::filesystem::create_directories(std::filesystem::path(path).parent_path());
        std::filesystem::remove_all(path, ignored);
        const int kind = in.byte() % 4;
        if (kind == 0) std::filesystem::create_directories(path + "/x");
        if (kind == 1) CHECK(!::symlink("/etc/passwd", path.c_str()));
        if (kind == 2) CHECK(!::mkfifo(path.c_str(), 0600));
        if (kind == 3) CHECK(!::symlink(path.c_str(), path.c_str()));
        break;
      }
      case 3: {
        const std::string payload = in.bytes(in.byte() % 4 ? array.chunk_bytes() : static_cast<std::size_t>(in.below(300)));
        if (!cache.insert(array, id, payload.data(), payload.size())) shown[id].push_back(payload);
        break;
      }
      case 4: {
        cache.insert_absent(array, id);
        std::string whole;
        while (whole.size() < array.chunk_bytes()) whole += fill;
        shown[id].push_back(whole);
        break;
      }
      case 5:
        cache.remove(array, id);
        break;
      case 6:
        cache.blocks().drop({array.id(), id});
        break;
      case 7: {
        const BlockRef block = cache.payload(array, id, in.byte() % 2);
        if (block) CHECK(allows(id, block->data(), block->size()));
        if (block && encoded && in.byte() % 2) {
          const std::string decoded = in.bytes(array.chunk_bytes());
          cache.keep(array, id, decoded.data(), decoded.size());
          shown[id].push_back(decoded);
        }
        break;
      }
      case 8: {
        const BlockRef block = cache.block(array, id);
        if (block && block->kind() != Block::Kind::fill) CHECK(allows(id, block->data(), block->size()));
        break;
      }
      default: {  // read a region
        Region region;
        std::int64_t elements = 1;
        std::int64_t extent[3];
        for (int d = 0; d < axes; ++d) {
          const std::int64_t n = shape[static_cast<std::size_t>(d)];
          region.start[d] = in.below(n);
          region.step[d] = 1 + in.below(4);
          region.count[d] = in.below((n - region.start[d] + region.step[d] - 1) / region.step[d] + 1);
          extent[d] = region.count[d];
          elements *= extent[d];
        }
        std::string out(static_cast<std::size_t>(elements) * itemsize, '?');
        std::int64_t stride = static_cast<std::int64_t>(itemsize);
        for (int d = axes; d-- > 0;) region.stride[d] = stride, stride *= extent[d];
        region.out = reinterpret_cast<std::byte*>(out.data());
        std::vector<std::uint64_t> missing;
        cache.read(array, region, 1 + in.byte() % 3, missing);
        CHECK(std::is_sorted(missing.begin(), missing.end()));
        for (const std::uint64_t each : missing) CHECK(each < array.chunk_count());
        // Each element that is not missing is one that its chunk may show.
        for (std::int64_t i = 0; i < elements; ++i) {
          std::int64_t rest = i, inside = 0, owner = 0, at[3];
          for (int d = axes; d-- > 0;) at[d] = region.start[d] + rest % extent[d] * region.step[d], rest /= extent[d];
          for (int d = 0; d < axes; ++d) {
            const std::int64_t c = chunk[static_cast<std::size_t>(d)], n = shape[static_cast<std::size_t>(d)];
            owner = owner * ((n + c - 1) / c) + at[d] / c;
            inside = inside * c + at[d] % c;
          }
          const auto chunk_id = static_cast<std::uint64_t>(owner);
          if (std::binary_search(missing.begin(), missing.end(), chunk_id)) continue;
          const char* found = out.data() + static_cast<std::size_t>(i) * itemsize;
          const std::size_t offset = static_cast<std::size_t>(inside) * itemsize;
          const auto& may = shown[chunk_id];
          CHECK(std::any_of(may.begin(), may.end(), [&](const std::string& each) {
            return each.size() == array.chunk_bytes() && !std::memcmp(each.data() + offset, found, itemsize);
          }));
        }
      }
    }
  }
  CHECK(cache.check());
  std::filesystem::remove_all(folder);
  return 0;
}
