/* What libjpeg does when its output does not fit into the buffer that it was given. */

#define JPEG_INTERNALS
#include "jinclude.h"
#include "jpeglib.h"
#include "jfail.h"

GLOBAL(void)
jpeg_discard_output(j_compress_ptr cinfo)
{
  /* Nobody reads it. */
  static JOCTET discarded[4096];

  JFAIL(cinfo, JERR_CANT_SUSPEND);
  cinfo->dest->next_output_byte = discarded;
  cinfo->dest->free_in_buffer = sizeof(discarded);
}
