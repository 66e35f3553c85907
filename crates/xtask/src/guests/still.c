/* A world in which nothing moves, for builders that bake it into their result.
 *
 * componentize-py runs the interpreter and keeps its memory, with all that the
 * interpreter has seen of the machine by then: random numbers, the time, when
 * its files were made, in which order a folder lists them. It has no option
 * against that. Preloaded into it (Linux only), this library answers in the
 * machine's place, always the same.
 *
 * Random numbers and clocks go through libc and are replaced by name. Files and
 * folders are looked at by bare system calls, which a seccomp filter turns into
 * a signal; the handler asks the kernel and evens out the answer. It runs at the
 * very place of the call, never inside malloc, so it may allocate. */

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

/* In the sixth argument, which these calls do not have: this call is our own. */
#define OURS 0x5a17u

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

static void trim(struct statx *file) {
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

static long look(ucontext_t *context) {
  struct statx *file = (struct statx *)(uintptr_t)ARGUMENT(context, 4);
  long result = syscall(SYS_statx, ARGUMENT(context, 0), ARGUMENT(context, 1),
                        ARGUMENT(context, 2), ARGUMENT(context, 3), file, (unsigned long)OURS);
  if (result == 0) trim(file);
  return result;
}

struct entry { /* as the kernel lays it out */
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t type;
  char name[];
};

/* Folders that were read to their end, in order, and what is yet to be told. */
struct listing {
  struct listing *next;
  int folder;
  size_t count, told;
  struct entry **entries;
  char *bytes;
};

static struct listing *listings;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static int by_name(const void *left, const void *right) {
  return strcmp((*(struct entry *const *)left)->name, (*(struct entry *const *)right)->name);
}

static void forget(int folder) {
  for (struct listing **at = &listings; *at; at = &(*at)->next) {
    if ((*at)->folder == folder) {
      struct listing *old = *at;
      *at = old->next;
      free(old->entries);
      free(old->bytes);
      free(old);
      return;
    }
  }
}

static long read_all(int folder) {
  size_t room = 1 << 16, used = 0;
  char *bytes = malloc(room);
  for (;;) {
    if (!bytes) abort();
    long result = syscall(SYS_getdents64, folder, bytes + used, room - used, 0, 0,
                          (unsigned long)OURS);
    if (result < 0 && !(errno == EINVAL && used > 0)) {
      free(bytes);
      return -1;
    }
    if (result == 0) break;
    if (result > 0) used += (size_t)result;
    if (room - used < 4096) bytes = realloc(bytes, room *= 2);
  }
  struct listing *new = calloc(1, sizeof *new);
  if (!new || !(new->entries = calloc(used / sizeof(struct entry) + 1, sizeof *new->entries)))
    abort();
  new->folder = folder;
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

static long list(ucontext_t *context) {
  int folder = (int)ARGUMENT(context, 0);
  char *buffer = (char *)(uintptr_t)ARGUMENT(context, 1);
  size_t room = (size_t)ARGUMENT(context, 2), used = 0;
  /* At the start: newly opened, perhaps under an old number, or rewound. */
  if (lseek(folder, 0, SEEK_CUR) == 0) {
    forget(folder);
    if (read_all(folder) != 0) return -1;
  }
  struct listing *listing = listings;
  while (listing && listing->folder != folder) listing = listing->next;
  if (!listing) return 0;
  while (listing->told < listing->count) {
    struct entry *entry = listing->entries[listing->told];
    if (used + entry->length > room) {
      if (used == 0) {
        errno = EINVAL;
        return -1;
      }
      break;
    }
    entry->inode = 1;
    entry->offset = (int64_t)++listing->told;
    memcpy(buffer + used, entry, entry->length);
    used += entry->length;
  }
  if (used == 0) forget(folder);
  return (long)used;
}

static void answer(int signal, siginfo_t *info, void *raw) {
  (void)signal;
  ucontext_t *context = raw;
  int before = errno;
  long result;
  if (info->si_syscall == SYS_getdents64) {
    pthread_mutex_lock(&guard);
    result = list(context);
    pthread_mutex_unlock(&guard);
  } else {
    result = look(context);
  }
  RESULT(context) = result < 0 ? -errno : result;
  errno = before;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  struct sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_statx, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getdents64, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OURS, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = sizeof rules / sizeof *rules, .filter = rules};
  if (sigaction(SIGSYS, &action, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    static const char message[] = "still: the kernel refuses a seccomp filter\n";
    ssize_t written = write(2, message, sizeof message - 1);
    (void)written;
    _exit(70);
  }
}
