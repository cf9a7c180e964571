# What is built: for each workload a context with its Dockerfile, and the change of one source file. Sourced, never run.
# `context_NAME DIRECTORY` writes the former; `change_one_file` makes the latter; what plain tools do is in floors.sh.
# shellcheck shell=bash
workloads=(one-file steps dependencies two-builders large-layer large-context)

declare -A titles=(
  [one-file]='one file'
  [steps]='15 steps'
  [dependencies]='20,000 files of dependencies'
  [two-builders]='two builders, one image'
  [large-layer]='layer of 1 GiB'
  [large-context]='context of 30,000 files'
)

# What installs dependencies, in the shell of busybox: make_modules DIRECTORY COUNT gives files of 2 to 3 KiB in 500 directories.
make_modules='mkdir -p DIRECTORY && cd DIRECTORY && mkdir $(seq 0 499) && awk "BEGIN { for (i = 0; i < COUNT; i++) { file = (i % 500) \"/module-\" i \".js\"; for (j = 0; j < 60; j++) printf \"export const value_%d_%d = %d\\n\", i, j, i * 31 + j > file; close(file) } }"'

# modules DIRECTORY COUNT: the command
modules() {
  local command=${make_modules//DIRECTORY/$1}
  echo "${command//COUNT/$2}"
}

compile='cat /src/* | sha256sum >/result && find / -xdev -type f | wc -l >>/result'

# dockerfile DIRECTORY LINE...
dockerfile() {
  local directory=$1
  shift
  mkdir -p "$directory/src"
  echo 'first version' >"$directory/src/main"
  echo 'never changed' >"$directory/src/other"
  printf '%s\n' "$@" >"$directory/Dockerfile"
}

# change_one_file DIRECTORY VERSION
change_one_file() {
  echo "changed $2" >"$1/src/main"
}

from() {
  echo "FROM $host/base/busybox:$image_tag"
}

context_one-file() {
  dockerfile "$1" "$(from)" 'COPY src/main /main'
}

context_steps() {
  local before=() after=() number
  for number in $(seq 8); do before+=("RUN echo $number >/step-$number"); done
  for number in $(seq 9 14); do after+=("RUN cat /src/main /step-8 >/step-$number"); done
  dockerfile "$1" "$(from)" "${before[@]}" 'COPY src /src' "${after[@]}"
}

context_dependencies() {
  dockerfile "$1" "$(from)" "RUN $(modules /modules 20000)" 'COPY src /src' "RUN $compile"
}

context_two-builders() {
  dockerfile "$1" \
    "$(from) AS one" "RUN $(modules /modules 5000)" 'COPY src/other /src/' "RUN $compile" \
    "$(from) AS two" "RUN $(modules /modules 4000)" 'COPY src/main /src/' "RUN $compile" \
    "$(from)" 'COPY --from=one /result /modules/1 /one/' 'COPY --from=two /result /modules/2 /two/'
}

context_large-layer() {
  dockerfile "$1" "$(from)" 'RUN head -c 1073741824 /dev/urandom >/large' 'COPY src /src' "RUN $compile"
}

context_large-context() {
  dockerfile "$1" "$(from)" 'COPY . /context'
  sh -c "$(modules "$1/modules" 30000)"
}
