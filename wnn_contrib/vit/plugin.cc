// wnn: once
#include "simd.h"

WNN_PLUGIN("contrib.vit")
