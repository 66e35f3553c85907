/* The allocator of small objects in the guest.
 *
 * The interpreter was built without its own, so each object is allocated by the C library,
 * whose allocator takes longer than all else that many operations do. `merge_modules`
 * replaces the functions of the C library by these, which pass on what is large.
 *
 * An arena is a block of the C library, and consists of pages. A page contains blocks of one
 * size, and those that were freed are a list. All blocks of a page are allocated before
 * those of another, and a page without blocks can be used for another size. An arena
 * without blocks is returned to the C library.
 *
 * Nothing here protects a guest from itself: code in it that writes behind an object can
 * change these lists, as it can change those of any allocator. */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define LIKELY(condition) __builtin_expect(!!(condition), 1)

#define PAGE_BITS 12
#define PAGE_SIZE (1u << PAGE_BITS)
#define ARENA_BITS 18
#define ARENA_SIZE (1u << ARENA_BITS)
#define PAGES (ARENA_SIZE / PAGE_SIZE)
#define ARENAS (1u << (32 - ARENA_BITS))

#define STEP 16u
#define LARGEST 512u
#define SIZES (LARGEST / STEP)

typedef struct block {
  struct block *next;
} block;

/* The start of a page. Its size is a multiple of STEP, to which blocks are aligned. */
typedef struct page {
  block *freed;
  char *fresh;        /* where the blocks begin that were never allocated */
  struct page *next, *previous; /* in the list of pages with free blocks, of one size */
  uint16_t used;      /* the number of allocated blocks */
  uint16_t size;      /* of a block; 0 if the page has no blocks */
  uint8_t listed;
} page;

#define HEADER ((sizeof(page) + STEP - 1) / STEP * STEP)

/* The first page with free blocks, of each size. */
static page *available[SIZES];
/* Pages without blocks. */
static page *empty;
/* The pages of the newest arena that were never used, which have not even a header. */
static char *fresh, *end;
/* For each address of an arena: 0 if it is none, or 1 and the number of its used pages. */
static uint8_t arenas[ARENAS];
static unsigned unused_arenas;

static page *page_of(void *pointer) {
  return (page *)((uintptr_t)pointer & ~(uintptr_t)(PAGE_SIZE - 1));
}

static uint8_t *arena_of(void *pointer) { return &arenas[(uintptr_t)pointer >> ARENA_BITS]; }

static void enlist(page **list, page *item) {
  item->previous = NULL;
  item->next = *list;
  if (*list) (*list)->previous = item;
  *list = item;
  item->listed = 1;
}

static void remove_from(page **list, page *item) {
  if (item->previous) item->previous->next = item->next;
  else *list = item->next;
  if (item->next) item->next->previous = item->previous;
  item->listed = 0;
}

static int add_arena(void) {
  char *arena = aligned_alloc(ARENA_SIZE, ARENA_SIZE);
  if (!arena) return 0;
  fresh = arena;
  end = arena + ARENA_SIZE;
  *arena_of(fresh) = 1;
  unused_arenas++;
  return 1;
}

static page *take_page(void) {
  page *item = empty;
  if (item) {
    remove_from(&empty, item);
  } else {
    if (fresh == end && !add_arena()) return NULL;
    item = (page *)fresh;
    fresh += PAGE_SIZE;
  }
  uint8_t *arena = arena_of(item);
  if ((*arena)++ == 1) unused_arenas--;
  return item;
}

/* Returns the arena of an empty page, in which no page is used, to the C library. */
static void return_arena(page *item) {
  char *arena = (char *)((uintptr_t)item & ~(uintptr_t)(ARENA_SIZE - 1));
  /* Pages that were never used are in no list. */
  if (fresh != end && arena_of(fresh) == arena_of(arena)) return;
  for (unsigned number = 0; number < PAGES; number++)
    remove_from(&empty, (page *)(arena + number * PAGE_SIZE));
  *arena_of(arena) = 0;
  unused_arenas--;
  free(arena);
}

/* Allocates a block from a page without freed blocks, or from another page. */
static __attribute__((noinline)) void *allocate(unsigned number) {
  unsigned size = (number + 1) * STEP;
  for (;;) {
    page *item = available[number];
    if (!item) {
      item = take_page();
      if (!item) return NULL;
      item->freed = NULL;
      item->fresh = (char *)item + HEADER;
      item->used = 0;
      item->size = (uint16_t)size;
      enlist(&available[number], item);
    }
    block *freed = item->freed;
    if (freed) {
      item->freed = freed->next;
      item->used++;
      return freed;
    }
    char *next = item->fresh;
    if (next + size <= (char *)item + PAGE_SIZE) {
      item->fresh = next + size;
      item->used++;
      return next;
    }
    remove_from(&available[number], item);
  }
}

/* Called when a page that had no free block has got one, or has no allocated one any more. */
static __attribute__((noinline)) void release(page *item) {
  page **list = &available[item->size / STEP - 1];
  if (item->used > 0) {
    if (!item->listed) enlist(list, item);
    return;
  }
  /* The only page of a size is kept, since objects often live for a moment only. */
  if (item->listed && *list == item && !item->next) return;
  if (item->listed) remove_from(list, item);
  item->size = 0;
  enlist(&empty, item);
  uint8_t *arena = arena_of(item);
  /* One is kept, since it is often needed again at once. */
  if (--*arena == 1 && ++unused_arenas > 1) return_arena(item);
}

EXPORT void *isola_malloc(size_t size) {
  if (LIKELY(size <= LARGEST)) {
    unsigned number = size ? (unsigned)(size - 1) / STEP : 0;
    page *item = available[number];
    if (LIKELY(item && item->freed)) {
      block *freed = item->freed;
      item->freed = freed->next;
      item->used++;
      return freed;
    }
    return allocate(number);
  }
  return malloc(size);
}

EXPORT void isola_free(void *pointer) {
  if (LIKELY(*arena_of(pointer))) {
    page *item = page_of(pointer);
    block *freed = pointer;
    freed->next = item->freed;
    item->freed = freed;
    if (--item->used == 0 || !item->listed) release(item);
    return;
  }
  free(pointer);
}

EXPORT void *isola_calloc(size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    errno = ENOMEM;
    return NULL;
  }
  if (bytes > LARGEST) return calloc(count, size);
  void *pointer = isola_malloc(bytes);
  return pointer ? memset(pointer, 0, bytes) : NULL;
}

EXPORT void *isola_realloc(void *pointer, size_t size) {
  if (!pointer) return isola_malloc(size);
  if (!*arena_of(pointer)) return realloc(pointer, size);
  size_t old = page_of(pointer)->size;
  /* A block that becomes much smaller is moved, to release the rest. */
  if (size <= old && size > old / 4 * 3) return pointer;
  void *moved = isola_malloc(size);
  if (!moved) return size <= old ? pointer : NULL;
  memcpy(moved, pointer, size < old ? size : old);
  isola_free(pointer);
  return moved;
}
