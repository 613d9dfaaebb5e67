// A child must be able to use the cache whatever the parent's other threads were doing when it was forked.
#include <sys/wait.h>

#include <atomic>
#include <memory>

#include "buffer_pool.hpp"
#include "cache.hpp"
#include "check.hpp"
using namespace copick;

int main() {
  const Scratch scratch;
  const Array array(1, scratch.path, {64}, {4}, 1, std::string(1, '\0'), "", false);
  Cache cache(8, 1 << 16);
  BufferPool pool(1 << 20);
  const char payload[4] = {1, 2, 3, 4};
  for (std::uint64_t i = 0; i < 16; ++i) CHECK(cache.insert(array, i, payload, 4) == 0);
  std::vector<std::unique_ptr<Directory>> directories;  // more than may be open
  for (std::size_t i = 0; i < 2 * Directory::kMostOpen; ++i) directories.push_back(std::make_unique<Directory>(scratch.path));

  const auto use = [&](std::uint64_t seed) {
    char out[64] = {};
    Region region{{0}, {1}, {64}, {1}, reinterpret_cast<std::byte*>(out)};
    std::vector<std::uint64_t> missing;
    cache.read(array, region, 1, missing);
    CHECK(missing.empty() && out[63] == 4 && directories[seed % directories.size()]->has("0"));
    cache.index.add({1, seed % 100}, 10, seed);
    if (cache.index.admits(Policy::epoch, 0, seed)) cache.index.victims({20, 1});
    pool.give(pool.take(1000 + seed % 1000), 1000 + seed % 1000);
  };
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (std::uint64_t who = 0; who < 3; ++who)
    threads.emplace_back([&, who] {
      for (std::uint64_t i = who; !done; i += 3) use(i);
    });
  for (int round = 0; round < 100; ++round) {
    const pid_t child = ::fork();
    if (!child) {
      ::alarm(20);  // a lock that was never released would hang here
      for (std::uint64_t i = 0; i < 20; ++i) use(i);
      ::_exit(cache.check() ? 0 : 3);
    }
    int status = 0;
    CHECK(::waitpid(child, &status, 0) == child);
    if (status) std::fprintf(stderr, "child status %x\n", static_cast<unsigned>(status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  done = true;
  for (auto& thread : threads) thread.join();
  CHECK(cache.check());
}
