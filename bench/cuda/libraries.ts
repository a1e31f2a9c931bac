// Where the libraries lie that baselines and the peaks need at run time: those of Python packages (PyTorch brings
// them), else whatever the loader finds.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { pythonPackages } from '../cudnn/headers';

const FOLDERS = [
  'nvidia/cudnn/lib',
  'nvidia/cu13/lib',
  'nvidia/cuda_runtime/lib',
  'nvidia/cuda_nvrtc/lib',
  'nvidia/cublas/lib',
];

export interface Libraries {
  cudart: string;
  cudnn: string;
  /** For the loader, since cuDNN loads others by name. */
  environment: { LD_LIBRARY_PATH: string };
}

export function findLibraries(): Libraries {
  const folders = pythonPackages()
    .flatMap((place) => FOLDERS.map((folder) => join(place, folder)))
    .filter((folder) => existsSync(folder));
  const find = (name: string) => {
    const folder = folders.find((folder) => existsSync(join(folder, name)));
    return folder === undefined ? name : join(folder, name);
  };
  const path = [...folders, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
  return { cudart: find('libcudart.so.13'), cudnn: find('libcudnn.so.9'), environment: { LD_LIBRARY_PATH: path } };
}
