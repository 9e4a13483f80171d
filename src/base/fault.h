/*
 * Marked places where the tests make a program fail or die (meson option `faults`, never in a release).
 * AKIRA_FAULT="name=kill" kills the process with SIGKILL at FAULT("name"); "name=fail" makes it return -EIO;
 * "name=kill:3" acts at the third passing only. Several, separated by commas. FAULT_OF("name", which) is the place
 * "name/which", for what passes one place for many reasons.
 */
#pragma once

#ifdef AKIRA_FAULTS
/* 0, or -EIO where this place is to fail. May not return. */
int fault_point(const char *name);
int fault_point_of(const char *name, const char *which);
#define FAULT(name) fault_point(name)
#define FAULT_OF(name, which) fault_point_of(name, which)
#else
#define FAULT(name) 0
#define FAULT_OF(name, which) 0
#endif
