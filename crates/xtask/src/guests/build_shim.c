/* A shim that makes builds deterministic.
 *
 * componentize-py runs the interpreter and stores its memory in the component,
 * with everything that the interpreter has read from the machine: random numbers,
 * the time, the times of files, the order of directory entries. It has no option
 * against that. This library is preloaded into it (Linux only), and returns fixed
 * values for all of them.
 *
 * Random numbers and clocks are read with functions of libc, which are replaced by
 * name. Metadata of files and directory entries are read with direct system calls,
 * which a seccomp filter turns into a signal; the handler repeats the call and
 * normalizes the result. The signal is synchronous and does not interrupt malloc, so
 * the handler may allocate. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/stat.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define EPOCH 1577836800 /* 2020-01-01, as in guests.rs */
#define MODE_FORMAT 0170000
#define MODE_DIRECTORY 0040000

/* The mark of calls of this library, in the sixth argument, which these system calls
 * do not have. */
#define OWN_CALL 0x5a17u

#if defined(__x86_64__)
#define ARGUMENT(context, n) \
  ((context)->uc_mcontext.gregs[(int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8}[n]])
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
#elif defined(__aarch64__)
#define ARGUMENT(context, n) ((context)->uc_mcontext.regs[n])
#define RESULT(context) ((context)->uc_mcontext.regs[0])
#else
#error "no system call convention for this processor"
#endif

ssize_t getrandom(void *buffer, size_t length, unsigned flags) {
  (void)flags;
  memset(buffer, 0x2a, length);
  return (ssize_t)length;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  time->tv_sec = clock == CLOCK_REALTIME ? EPOCH : 1;
  time->tv_nsec = 0;
  return 0;
}

static void normalize_stat(struct statx *file) {
  struct statx_timestamp *times[] = {&file->stx_atime, &file->stx_btime, &file->stx_ctime,
                                     &file->stx_mtime};
  for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
    times[i]->tv_sec = EPOCH;
    times[i]->tv_nsec = 0;
  }
  file->stx_ino = 1;
  file->stx_dev_major = 0;
  file->stx_dev_minor = 1;
  file->stx_nlink = 1;
  if ((file->stx_mode & MODE_FORMAT) == MODE_DIRECTORY) file->stx_size = 4096;
}

static long handle_statx(ucontext_t *context) {
  struct statx *file = (struct statx *)(uintptr_t)ARGUMENT(context, 4);
  long result = syscall(SYS_statx, ARGUMENT(context, 0), ARGUMENT(context, 1),
                        ARGUMENT(context, 2), ARGUMENT(context, 3), file, (unsigned long)OWN_CALL);
  if (result == 0) normalize_stat(file);
  return result;
}

struct entry { /* the layout of the kernel (linux_dirent64) */
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t type;
  char name[];
};

/* Directories that were read completely, and the number of entries returned so far. */
struct listing {
  struct listing *next;
  int directory;
  size_t count, returned;
  struct entry **entries;
  char *bytes;
};

static struct listing *listings;
static pthread_mutex_t listings_mutex = PTHREAD_MUTEX_INITIALIZER;

static int by_name(const void *left, const void *right) {
  return strcmp((*(struct entry *const *)left)->name, (*(struct entry *const *)right)->name);
}

static void drop_listing(int directory) {
  for (struct listing **at = &listings; *at; at = &(*at)->next) {
    if ((*at)->directory == directory) {
      struct listing *old = *at;
      *at = old->next;
      free(old->entries);
      free(old->bytes);
      free(old);
      return;
    }
  }
}

static long read_listing(int directory) {
  size_t capacity = 1 << 16, used = 0;
  char *bytes = malloc(capacity);
  for (;;) {
    if (!bytes) abort();
    long result = syscall(SYS_getdents64, directory, bytes + used, capacity - used, 0, 0,
                          (unsigned long)OWN_CALL);
    if (result < 0 && !(errno == EINVAL && used > 0)) {
      free(bytes);
      return -1;
    }
    if (result == 0) break;
    if (result > 0) used += (size_t)result;
    if (capacity - used < 4096) bytes = realloc(bytes, capacity *= 2);
  }
  struct listing *new = calloc(1, sizeof *new);
  if (!new || !(new->entries = calloc(used / sizeof(struct entry) + 1, sizeof *new->entries)))
    abort();
  new->directory = directory;
  new->bytes = bytes;
  for (size_t at = 0; at < used;) {
    struct entry *entry = (struct entry *)(bytes + at);
    new->entries[new->count++] = entry;
    at += entry->length;
  }
  qsort(new->entries, new->count, sizeof *new->entries, by_name);
  new->next = listings;
  listings = new;
  return 0;
}

static long handle_getdents(ucontext_t *context) {
  int directory = (int)ARGUMENT(context, 0);
  char *buffer = (char *)(uintptr_t)ARGUMENT(context, 1);
  size_t capacity = (size_t)ARGUMENT(context, 2), used = 0;
  /* At offset 0: newly opened, possibly with a reused descriptor, or rewound. */
  if (lseek(directory, 0, SEEK_CUR) == 0) {
    drop_listing(directory);
    if (read_listing(directory) != 0) return -1;
  }
  struct listing *listing = listings;
  while (listing && listing->directory != directory) listing = listing->next;
  if (!listing) return 0;
  while (listing->returned < listing->count) {
    struct entry *entry = listing->entries[listing->returned];
    if (used + entry->length > capacity) {
      if (used == 0) {
        errno = EINVAL;
        return -1;
      }
      break;
    }
    entry->inode = 1;
    entry->offset = (int64_t)++listing->returned;
    memcpy(buffer + used, entry, entry->length);
    used += entry->length;
  }
  if (used == 0) drop_listing(directory);
  return (long)used;
}

static void handle_sigsys(int signal, siginfo_t *info, void *raw) {
  (void)signal;
  ucontext_t *context = raw;
  int before = errno;
  long result;
  if (info->si_syscall == SYS_getdents64) {
    pthread_mutex_lock(&listings_mutex);
    result = handle_getdents(context);
    pthread_mutex_unlock(&listings_mutex);
  } else {
    result = handle_statx(context);
  }
  RESULT(context) = result < 0 ? -errno : result;
  errno = before;
}

__attribute__((constructor)) static void install_filter(void) {
  struct sigaction action = {.sa_sigaction = handle_sigsys,
                             .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  struct sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_statx, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getdents64, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_CALL, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = sizeof rules / sizeof *rules, .filter = rules};
  if (sigaction(SIGSYS, &action, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    static const char message[] = "build shim: the kernel rejects a seccomp filter\n";
    ssize_t written = write(2, message, sizeof message - 1);
    (void)written;
    _exit(70);
  }
}
