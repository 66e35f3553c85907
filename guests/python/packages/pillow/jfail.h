/* How libjpeg reports an error.
 *
 * It expects a handler that does not return, but leaves by `longjmp`, which the guest does
 * not have. Pillow's handler here ends the sandbox. Where the content of a file or of a
 * picture can cause an error, the library's functions return instead: `JFAIL` stores that
 * it has failed, callers up to Pillow look at that, and nothing is called any more except
 * for the functions that free memory.
 *
 * In a file that includes this one, all errors do that, and functions return
 * `JFAIL_RESULT`. */

#undef ERREXIT
#undef ERREXIT1
#undef ERREXIT2
#undef ERREXIT4
#define ERREXIT(cinfo, code) \
  do { JFAIL(cinfo, code); return JFAIL_RESULT; } while (0)
#define ERREXIT1(cinfo, code, a) \
  do { (cinfo)->err->msg_parm.i[0] = (int)(a); ERREXIT(cinfo, code); } while (0)
#define ERREXIT2(cinfo, code, a, b) \
  do { (cinfo)->err->msg_parm.i[1] = (int)(b); ERREXIT1(cinfo, code, a); } while (0)
#define ERREXIT4(cinfo, code, a, b, c, d)   \
  do {                                      \
    (cinfo)->err->msg_parm.i[2] = (int)(c); \
    (cinfo)->err->msg_parm.i[3] = (int)(d); \
    ERREXIT2(cinfo, code, a, b);            \
  } while (0)
