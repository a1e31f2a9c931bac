// Binaries built on a new Linux would run on no older one: the linker takes the newest version of each function of the
// C and C++ libraries. Here are jumps to versions that glibc 2.28 and the libstdc++ of GCC 8 have, of the same
// behaviour. cmake/linux.cmake makes the linker send calls through them (--wrap), those in object code of others too,
// and drop the ones that nobody makes. scripts/elf.mjs says what is missing here.

// clang-format off
#if defined(__x86_64__)
#define NA_JUMP "jmp"
#define NA_GLIBC(x86_64) "GLIBC_" x86_64
#elif defined(__aarch64__)
#define NA_JUMP "b"
#define NA_GLIBC(x86_64) "GLIBC_2.17"  // its first, which has them all
#else
#error "no versions are known for this processor: cmake/linux.cmake should leave this file out"
#endif

// Calls of `name` go to `target` at `version`. A section each, for the linker to drop.
#define NA_CALLS_OF(name, target, version)         \
  asm(".pushsection .text.old." name ",\"ax\"\n"   \
      ".globl __wrap_" name "\n"                   \
      ".hidden __wrap_" name "\n"                  \
      ".type __wrap_" name ", %function\n"         \
      "__wrap_" name ":\n"                         \
      NA_JUMP " old_" name "\n"                    \
      ".size __wrap_" name ", .-__wrap_" name "\n" \
      ".symver old_" name ", " target "@" version "\n" \
      ".popsection\n");
#define NA_OLD(name, x86_64) NA_CALLS_OF(name, name, NA_GLIBC(x86_64))

NA_OLD("dladdr", "2.2.5")
NA_OLD("dlclose", "2.2.5")
NA_OLD("dlerror", "2.2.5")
NA_OLD("dlmopen", "2.3.4")
NA_OLD("dlopen", "2.2.5")
NA_OLD("dlsym", "2.2.5")
NA_OLD("dlvsym", "2.2.5")
NA_OLD("exp", "2.2.5")
NA_OLD("exp2", "2.2.5")
NA_OLD("log", "2.2.5")
NA_OLD("log2", "2.2.5")
NA_OLD("pow", "2.2.5")
NA_OLD("pthread_condattr_setpshared", "2.2.5")
NA_OLD("pthread_create", "2.2.5")
NA_OLD("pthread_detach", "2.2.5")
NA_OLD("pthread_getspecific", "2.2.5")
NA_OLD("pthread_join", "2.2.5")
NA_OLD("pthread_key_create", "2.2.5")
NA_OLD("pthread_key_delete", "2.2.5")
NA_OLD("pthread_kill", "2.2.5")
NA_OLD("pthread_mutex_trylock", "2.2.5")
NA_OLD("pthread_mutexattr_destroy", "2.2.5")
NA_OLD("pthread_mutexattr_init", "2.2.5")
NA_OLD("pthread_mutexattr_setpshared", "2.2.5")
NA_OLD("pthread_mutexattr_settype", "2.2.5")
NA_OLD("pthread_once", "2.2.5")
NA_OLD("pthread_rwlock_destroy", "2.2.5")
NA_OLD("pthread_rwlock_init", "2.2.5")
NA_OLD("pthread_rwlock_rdlock", "2.2.5")
NA_OLD("pthread_rwlock_timedrdlock", "2.2.5")
NA_OLD("pthread_rwlock_timedwrlock", "2.2.5")
NA_OLD("pthread_rwlock_tryrdlock", "2.2.5")
NA_OLD("pthread_rwlock_trywrlock", "2.2.5")
NA_OLD("pthread_rwlock_unlock", "2.2.5")
NA_OLD("pthread_rwlock_wrlock", "2.2.5")
NA_OLD("pthread_rwlockattr_destroy", "2.2.5")
NA_OLD("pthread_rwlockattr_init", "2.2.5")
NA_OLD("pthread_rwlockattr_setpshared", "2.2.5")
NA_OLD("pthread_setname_np", "2.12")
NA_OLD("pthread_setspecific", "2.2.5")
NA_OLD("pthread_spin_destroy", "2.2.5")
NA_OLD("pthread_spin_init", "2.2.5")
NA_OLD("pthread_spin_lock", "2.2.5")
NA_OLD("pthread_spin_trylock", "2.2.5")
NA_OLD("pthread_spin_unlock", "2.2.5")
NA_OLD("sem_destroy", "2.2.5")
NA_OLD("sem_init", "2.2.5")
NA_OLD("sem_post", "2.2.5")
NA_OLD("sem_timedwait", "2.2.5")
NA_OLD("sem_trywait", "2.2.5")
NA_OLD("sem_wait", "2.2.5")
NA_OLD("shm_open", "2.2.5")
NA_OLD("shm_unlink", "2.2.5")

// std::condition_variable::wait, and the throw of a negative length, which is a bad_alloc too.
NA_CALLS_OF("_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE",
            "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE", "GLIBCXX_3.4.11")
NA_CALLS_OF("_ZSt28__throw_bad_array_new_lengthv", "_ZSt17__throw_bad_allocv", "GLIBCXX_3.4")
// clang-format on
