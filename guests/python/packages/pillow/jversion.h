/* The texts of libjpeg's version. */

#define JVERSION "mozjpeg 4"
#define JCOPYRIGHT ""
#define JCOPYRIGHT_SHORT ""
