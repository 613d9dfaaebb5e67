#include <fcntl.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <system_error>

#include "check.hpp"
#include "crc32c.hpp"
#include "file.hpp"
using namespace copick;
namespace fs = std::filesystem;

static std::size_t files_in(const std::string& folder) {
  std::size_t n = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) n += entry.is_regular_file();
  return n;
}

static void commits_and_loads() {
  const Scratch scratch;
  const Directory dir(scratch.path);
  const auto data = random_bytes(100'000, 4);
  CHECK(dir.commit("c/1/2/3", data.data(), data.size()) == 0);
  CHECK(dir.has("c/1/2/3") && fs::file_size(scratch.path + "/c/1/2/3") == data.size() + 4);
  CHECK((fs::status(scratch.path + "/c/1/2/3").permissions() & fs::perms::all) ==
        (fs::perms::owner_read | fs::perms::owner_write));
  for (const bool map : {true, false}) {
    BlockRef block;
    int error = -1;
    CHECK(dir.load("c/1/2/3", data.size(), data.size(), map, block, error) == Found::whole && error == 0);
    CHECK(block->kind() == (map ? Block::Kind::mapped : Block::Kind::heap));
    CHECK(block->size() == data.size() && !std::memcmp(block->data(), data.data(), data.size()));
    CHECK(dir.remove("c/1/2/3") == 0);  // whoever holds the block does not notice
    CHECK(!std::memcmp(block->data(), data.data(), data.size()));
    CHECK(dir.commit("c/1/2/3", data.data(), data.size()) == 0);
  }
  BlockRef block;
  int error = 0;
  CHECK(dir.load("c/1/2/4", 1, 1, true, block, error) == Found::nothing);
  CHECK(dir.load("c/1", 1, 1, true, block, error) == Found::corrupt);  // a directory
  CHECK(dir.load("c/1/2/3/9", 1, 1, true, block, error) == Found::nothing);
  CHECK(dir.load("c/1/2/3", data.size() - 1, data.size() - 1, true, block, error) == Found::corrupt);
  CHECK(dir.load("c/1/2/3", 0, 1 << 30, true, block, error) == Found::whole);
  CHECK(dir.remove("nowhere") == ENOENT);
  CHECK(dir.mark("m/0.absent") == 0 && dir.has("m/0.absent") && dir.mark("m/0.absent") == 0);
  CHECK(files_in(scratch.path) == 2);
  CHECK(dir.commit("empty", nullptr, 0) == 0 && dir.load("empty", 0, 0, true, block, error) == Found::whole);

  fs::create_symlink(scratch.path + "/c/1/2/3", scratch.path + "/link");
  CHECK(dir.load("link", data.size(), data.size(), true, block, error) == Found::corrupt);
  bool raised = false;
  try {
    const Directory missing(scratch.path + "/missing");
  } catch (const std::system_error& failure) {
    raised = failure.code().value() == ENOENT;
  }
  CHECK(raised);
}

static void every_flipped_byte_is_found() {
  const Scratch scratch;
  const Directory dir(scratch.path);
  const auto data = random_bytes(300, 5);
  for (std::size_t at = 0; at < data.size() + 4; ++at) {
    CHECK(dir.commit("0", data.data(), data.size()) == 0);
    {
      std::fstream file(scratch.path + "/0", std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(static_cast<std::streamoff>(at));
      const char flipped = static_cast<char>(file.get() ^ (1 << at % 8));
      file.seekp(static_cast<std::streamoff>(at));
      file.put(flipped);
    }
    BlockRef block;
    int error = 0;
    CHECK(dir.load("0", data.size(), data.size(), at % 2, block, error) == Found::corrupt);
  }
  for (std::size_t length = 0; length < data.size() + 4; length += 17) {
    CHECK(dir.commit("0", data.data(), data.size()) == 0);
    fs::resize_file(scratch.path + "/0", length);
    BlockRef block;
    int error = 0;
    CHECK(dir.load("0", data.size(), data.size(), true, block, error) == Found::corrupt);
    CHECK(dir.load("0", 0, 1 << 30, true, block, error) == Found::corrupt);
  }
}

static void a_failing_commit_leaves_nothing() {
  const Scratch scratch;
  const Directory dir(scratch.path);
  const auto old = random_bytes(1000, 6), data = random_bytes(1000, 7);
  CHECK(dir.commit("0/0", old.data(), old.size()) == 0);
  for (int step = 1; step <= 6; ++step) {
    inject(step, ENOSPC);
    CHECK(dir.commit("0/0", data.data(), data.size()) == ENOSPC);
    BlockRef block;
    int error = 0;
    CHECK(dir.load("0/0", old.size(), old.size(), true, block, error) == Found::whole);
    CHECK(!std::memcmp(block->data(), old.data(), old.size()) && files_in(scratch.path) == 1);
  }
  CHECK(dir.commit("0/0", data.data(), data.size()) == 0);  // an injected fault happens once
}

static void killed_at_any_step() {
  const auto old = random_bytes(5000, 8), data = random_bytes(5000, 9);
  for (const bool replacing : {false, true})
    for (int step = 1; step <= 7; ++step) {
      const Scratch scratch;
      const Directory dir(scratch.path);
      if (replacing) CHECK(dir.commit("0/0", old.data(), old.size()) == 0);
      const pid_t child = ::fork();
      if (!child) {
        inject(step, kKill);
        dir.commit("0/0", data.data(), data.size());
        ::_exit(0);
      }
      int status = 0;
      CHECK(::waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
      BlockRef block;
      int error = 0;
      const Found found = dir.load("0/0", data.size(), data.size(), true, block, error);
      const auto& expected = step == 7 ? data : old;
      CHECK(found == (step == 7 || replacing ? Found::whole : Found::nothing));
      if (found == Found::whole) CHECK(!std::memcmp(block->data(), expected.data(), expected.size()));
      CHECK(dir.commit("0/0", data.data(), data.size()) == 0);  // what was left behind is in nobody's way
    }
}

static void many_writers_of_one_name() {
  const Scratch scratch;
  const Directory dir(scratch.path);
  at_once(4, [&](int who) {
    const auto data = random_bytes(50'000, static_cast<unsigned>(who));
    for (int i = 0; i < 50; ++i) {
      CHECK(dir.commit("a/b", data.data(), data.size()) == 0);
      BlockRef block;
      int error = 0;
      CHECK(dir.load("a/b", data.size(), data.size(), i % 2, block, error) == Found::whole);  // one version or another, never a mixture
    }
  });
  CHECK(files_in(scratch.path) == 1);
}

int main() {
  commits_and_loads();
  every_flipped_byte_is_found();
  a_failing_commit_leaves_nothing();
  killed_at_any_step();
  many_writers_of_one_name();
}
