#include <fcntl.h>
#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <memory>
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

static std::size_t open_files() {
  std::size_t n = 0;
  for (int fd = 0; fd < 4096; ++fd) n += ::fcntl(fd, F_GETFD) >= 0;
  return n;
}

static std::vector<std::unique_ptr<Directory>> directories_in(const std::string& folder, std::size_t n) {
  std::vector<std::unique_ptr<Directory>> all;
  for (std::size_t i = 0; i < n; ++i) {
    const std::string path = folder + "/" + std::to_string(i);
    fs::create_directory(path);
    all.push_back(std::make_unique<Directory>(path));
  }
  return all;
}

static void few_directories_are_open() {
  const Scratch scratch;
  const std::size_t before = open_files(), n = 3 * Directory::kMostOpen;
  const auto data = random_bytes(1000, 10);
  {
    const auto all = directories_in(scratch.path, n);
    CHECK(open_files() <= before + Directory::kMostOpen);
    for (const auto& dir : all) CHECK(dir->commit("0/0", data.data(), data.size()) == 0 && dir->mark("0/1.absent") == 0);
    at_once(4, [&](int who) {
      std::mt19937 random(static_cast<unsigned>(who));
      for (int i = 0; i < 1000; ++i) {
        const Directory& dir = *all[random() % n];
        BlockRef block;
        int error = 0;
        CHECK(dir.load("0/0", data.size(), data.size(), i % 2, block, error) == Found::whole && dir.has("0/1.absent"));
      }
    });
    CHECK(open_files() <= before + Directory::kMostOpen);
  }
  CHECK(open_files() == before);
}

// A writer who is late finds another folder in the place of his own, or none.
static void what_took_the_place_of_a_directory_is_left_alone() {
  const Scratch scratch;
  const auto data = random_bytes(1000, 11);
  const std::string path = scratch.path + "/mine";
  fs::create_directory(path);
  const Directory dir(path);
  CHECK(dir.commit("0", data.data(), data.size()) == 0);
  const auto others = directories_in(scratch.path, Directory::kMostOpen);  // `dir` is closed now
  const auto gone = [&] {
    BlockRef block;
    int error = 0;
    return dir.commit("1", data.data(), data.size()) == ENOENT && dir.mark("1") == ENOENT && dir.remove("0") == ENOENT &&
           !dir.has("0") && dir.load("0", 0, 1 << 20, true, block, error) == Found::nothing;
  };
  fs::rename(path, scratch.path + "/away");
  CHECK(gone());
  fs::create_directory_symlink(scratch.path + "/away", path);
  CHECK(gone());
  fs::remove(path);
  fs::create_directory(path);
  std::ofstream(path + "/0") << "of the other";
  CHECK(gone() && files_in(path) == 1);
  fs::remove_all(path);
  fs::rename(scratch.path + "/away", path);
  CHECK(dir.has("0") && dir.commit("1", data.data(), data.size()) == 0);
  fs::rename(path, scratch.path + "/away");  // while it is open, what is written goes with it
  CHECK(dir.commit("2", data.data(), data.size()) == 0 && fs::exists(scratch.path + "/away/2") && !fs::exists(path));
}

// Where numbers are used again (ext4, for one), the new folder has the number of the one that is gone.
static void a_directory_with_the_number_of_one_that_is_gone_is_another() {
  const Scratch scratch;
  const auto data = random_bytes(1000, 12);
  for (int turn = 0; turn < 20; ++turn) {
    const std::string path = scratch.path + "/mine" + std::to_string(turn);
    fs::create_directory(path);
    const Directory dir(path);
    const auto others = directories_in(scratch.path, Directory::kMostOpen);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // times on disk are not exact
    fs::remove(path);
    fs::create_directory(path);
    CHECK(dir.commit("0", data.data(), data.size()) == ENOENT && files_in(path) == 0);
  }
}

int main() {
  commits_and_loads();
  every_flipped_byte_is_found();
  a_failing_commit_leaves_nothing();
  killed_at_any_step();
  many_writers_of_one_name();
  few_directories_are_open();
  what_took_the_place_of_a_directory_is_left_alone();
  a_directory_with_the_number_of_one_that_is_gone_is_another();
}
