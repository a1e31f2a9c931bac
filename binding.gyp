# The addon built by node-gyp, for those without CMake: the sources and flags of sources.json, like CMakeLists.txt.
# gyp has no flags per file, so every instruction set is a static library of its own.
{
  'target_defaults': {
    'include_dirs': ['csrc', '<!(node -p "require(\'node-addon-api\').include_dir")'],
    'defines': [
      'NDEBUG',
      'NAPI_VERSION=8',
      'NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS',
      'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
      'NODE_ATTENTION_VERSION="<!(node -p "require(\'./package.json\').version")"',
      'NODE_ATTENTION_BUILD="<!(node -p "require(\'./package.json\').version")+<!(node -p "require(\'crypto\').createHash(\'sha256\').update(require(\'fs\').readFileSync(\'csrc/core/backend.h\')).digest(\'hex\').slice(0,12)")"',
    ],
    'cflags_cc!': ['-std=gnu++14', '-std=gnu++17', '-std=gnu++20'],
    'cflags_cc': [
      '-std=c++17', '-O2', '-Wall', '-Wextra', '-fno-exceptions', '-fvisibility=hidden', '-fvisibility-inlines-hidden',
    ],
    'xcode_settings': {
      'CLANG_CXX_LANGUAGE_STANDARD': 'c++17',
      'GCC_SYMBOLS_PRIVATE_EXTERN': 'YES',
      'GCC_ENABLE_CPP_EXCEPTIONS': 'NO',
    },
  },
  'targets': [
    {
      'target_name': 'node_attention',
      'sources': ['<!@(node -p "const s=require(\'./sources.json\');[...s.addon,...s.core,...s.cpu].join(\' \')")'],
      'dependencies': ['generic'],
      'conditions': [
        ['target_arch=="x64"', {'dependencies': ['avx2', 'avx512', 'vnni', 'amx']}],
        ['OS=="linux"', {
          'libraries': ['-ldl', '-pthread'],
          'ldflags': [
            '-Wl,-z,nodelete', '-Wl,-z,noexecstack',
            '-Wl,--version-script=<(module_root_dir)/csrc/addon/exports.map',
          ],
        }],
      ],
    },
    {
      'target_name': 'generic',
      'type': 'static_library',
      'sources': ['<!@(node -p "require(\'./sources.json\').cpu_isa.generic.sources.join(\' \')")'],
      'cflags_cc': ['-O3', '<!@(node -p "require(\'./sources.json\').cpu_isa.generic.flags.join(\' \')")'],
    },
  ],
  'conditions': [
    ['target_arch=="x64"', {
      'targets': [
        {
          'target_name': 'avx2',
          'type': 'static_library',
          'sources': ['<!@(node -p "require(\'./sources.json\').cpu_isa.avx2.sources.join(\' \')")'],
          'cflags_cc': ['-O3', '<!@(node -p "require(\'./sources.json\').cpu_isa.avx2.flags.join(\' \')")'],
        },
        {
          'target_name': 'avx512',
          'type': 'static_library',
          'sources': ['<!@(node -p "require(\'./sources.json\').cpu_isa.avx512.sources.join(\' \')")'],
          'cflags_cc': ['-O3', '<!@(node -p "require(\'./sources.json\').cpu_isa.avx512.flags.join(\' \')")'],
        },
        {
          'target_name': 'vnni',
          'type': 'static_library',
          'sources': ['<!@(node -p "require(\'./sources.json\').cpu_isa.vnni.sources.join(\' \')")'],
          'cflags_cc': ['-O3', '<!@(node -p "require(\'./sources.json\').cpu_isa.vnni.flags.join(\' \')")'],
        },
        {
          'target_name': 'amx',
          'type': 'static_library',
          'sources': ['<!@(node -p "require(\'./sources.json\').cpu_isa.amx.sources.join(\' \')")'],
          'cflags_cc': ['-O3', '<!@(node -p "require(\'./sources.json\').cpu_isa.amx.flags.join(\' \')")'],
        },
      ],
    }],
  ],
}
