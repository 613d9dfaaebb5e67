// An open-addressing table from ChunkKey to a small value, for up to many millions of entries.
//
// Linear probing with backward-shift deletion: no tombstones, one cache line for most lookups. The capacity grows by half, not
// by two, so that a table never takes more than about twice the bytes of its entries. Not synchronised: its owner locks.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "chunk_key.hpp"

namespace copick {

template <class Value>
class KeyTable {
 public:
  struct Slot {
    ChunkKey key{};
    Value value{};
    bool used = false;
  };

  Value* find(const ChunkKey& key) noexcept {
    if (slots_.empty()) return nullptr;
    const std::size_t at = locate(key);
    return slots_[at].used ? &slots_[at].value : nullptr;
  }

  // The value of `key`, default-made if it was not there. Pointers into the table do not survive this call.
  Value& operator[](const ChunkKey& key) {
    if ((size_ + 1) * 5 > slots_.size() * 4) grow();
    Slot& slot = slots_[locate(key)];
    if (!slot.used) {
      slot.key = key;
      slot.used = true;
      ++size_;
    }
    return slot.value;
  }

  // Moves the value out, if it was there.
  bool erase(const ChunkKey& key, Value* taken = nullptr) {
    if (slots_.empty()) return false;
    std::size_t hole = locate(key);
    if (!slots_[hole].used) return false;
    if (taken) *taken = std::move(slots_[hole].value);
    for (std::size_t at = next(hole); slots_[at].used; at = next(at)) {
      // An entry may fill the hole unless its home lies after the hole on the way to where it is now.
      const std::size_t home = home_of(slots_[at].key);
      const bool stays = hole < at ? (hole < home && home <= at) : (hole < home || home <= at);
      if (stays) continue;
      slots_[hole] = std::move(slots_[at]);
      hole = at;
    }
    slots_[hole] = Slot{};
    --size_;
    return true;
  }

  std::size_t size() const noexcept { return size_; }
  std::size_t capacity() const noexcept { return slots_.size(); }
  Slot& slot(std::size_t at) noexcept { return slots_[at]; }

  template <class Visit>
  void each(Visit&& visit) const {
    for (const Slot& slot : slots_)
      if (slot.used) visit(slot.key, slot.value);
  }

  void clear() {
    slots_.clear();
    slots_.shrink_to_fit();
    size_ = 0;
  }

  // Whether every entry can be found from its home and the count is right.
  bool consistent() noexcept {
    std::size_t used = 0;
    for (std::size_t at = 0; at < slots_.size(); ++at)
      if (slots_[at].used) {
        ++used;
        if (locate(slots_[at].key) != at) return false;
      }
    return used == size_;
  }

 private:
  std::size_t next(std::size_t at) const noexcept { return at + 1 == slots_.size() ? 0 : at + 1; }

  std::size_t home_of(const ChunkKey& key) const noexcept {
    return static_cast<std::size_t>((hash(key) >> 32) * static_cast<std::uint64_t>(slots_.size()) >> 32);
  }

  // Where `key` is, or the free slot where it would go. The table always has a free slot.
  std::size_t locate(const ChunkKey& key) const noexcept {
    std::size_t at = home_of(key);
    while (slots_[at].used && !(slots_[at].key == key)) at = next(at);
    return at;
  }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 16 : slots_.size() + slots_.size() / 2);
    old.swap(slots_);
    for (Slot& slot : old)
      if (slot.used) slots_[locate(slot.key)] = std::move(slot);
  }

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
};

}  // namespace copick
