#include "python.h"
static PyMethodDef methods[] = {{0}};
DEFINE_MODULE(_isola_kdf, methods)
