// Mappings of files that others may cut short: where a page can't be had (SIGBUS), damaged bytes take its place and the mapping is marked.
#pragma once
#include "gnu.h"
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// One mapping; `base` is 0 while the place is free. `base` is stored last and cleared first.
typedef struct {
    uintptr_t base, end;
    uint32_t lost;
    uint16_t fill;
    // Nobody may write into what takes a lost page's place either.
    uint16_t read_only;
} shl_guarded_mapping;

typedef struct {
    shl_guarded_mapping *table;
    size_t count;
    struct sigaction before;
} shl_guards;
// In a function: a variable of a header's own is not emitted by Swift's importer.
static inline shl_guards *shl_guards_of_process(void) {
    static shl_guards guards;
    return &guards;
}

// Only calls that a handler may make. The page is filled before it is put in place, so that nobody ever sees it empty.
static inline int shl_replace_lost_page(uintptr_t address) {
    const size_t page = 4096;
    const shl_guards *guards = shl_guards_of_process();
    for (size_t i = 0; i < guards->count; i++) {
        shl_guarded_mapping *m = &guards->table[i];
        const uintptr_t base = __atomic_load_n(&m->base, __ATOMIC_ACQUIRE);
        if (base == 0 || address < base || address >= m->end) continue;
        void *filled = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (filled == MAP_FAILED) return 0;
        memset(filled, (int)m->fill, page);
        if (m->read_only && mprotect(filled, page, PROT_READ) != 0) return 0;
        __atomic_store_n(&m->lost, 1, __ATOMIC_SEQ_CST);
        return mremap(filled, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(address & ~(page - 1))) != MAP_FAILED;
    }
    return 0;
}
static inline void shl_bus_error(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    const int saved = errno;
    // Of no mapping of ours: whoever was there before has it; the access is made again and finds them.
    if (!shl_replace_lost_page((uintptr_t)info->si_addr)) sigaction(SIGBUS, &shl_guards_of_process()->before, NULL);
    errno = saved;
}
static inline int shl_guard_mappings(shl_guarded_mapping *table, size_t count) {
    shl_guards *guards = shl_guards_of_process();
    guards->table = table;
    guards->count = count;
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = shl_bus_error;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGBUS, &action, &guards->before);
}
static inline void shl_guard(shl_guarded_mapping *m, const void *base, size_t count, uint8_t fill, int read_only) {
    m->lost = 0;
    m->fill = fill;
    m->read_only = read_only != 0;
    m->end = (uintptr_t)base + count;
    __atomic_store_n(&m->base, (uintptr_t)base, __ATOMIC_SEQ_CST);
}
static inline void shl_unguard(shl_guarded_mapping *m) { __atomic_store_n(&m->base, 0, __ATOMIC_SEQ_CST); }
static inline int shl_is_lost(const shl_guarded_mapping *m) { return (int)__atomic_load_n(&m->lost, __ATOMIC_SEQ_CST); }
