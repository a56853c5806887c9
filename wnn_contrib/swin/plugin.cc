// wnn: base
#include "simd.h"

WNN_PLUGIN("contrib.swin")
