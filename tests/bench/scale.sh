# The cost of a step: builds with more and more steps on a small base image, on one of 127 layers, and on the large one.
# Sourced, never run.
# shellcheck shell=bash
source "$bench/base.sh"
publish_large_base
mkdir -p "$scratch/scale" "$scratch/layers"
for number in $(seq -w 126); do
  echo "$number" >"$scratch/layers/file-$number"
  tar -c -C "$scratch/layers" "file-$number" | gzip >"$scratch/layers/$number.tar.gz"
done
publish layers "$base_layer" "$scratch"/layers/*.tar.gz

# time_steps IMAGE COUNT: sets `seconds` of a build with so many steps
time_steps() {
  local number
  echo "FROM $registry/base/$1:$image_tag" >"$scratch/scale/Dockerfile"
  for number in $(seq "$2"); do echo "RUN echo $number >/step"; done >>"$scratch/scale/Dockerfile"
  build_alone "$scratch/scale"
}

cat <<END

| base image | 1 step, s | 50 steps | 100 steps | 200 steps | ms for each of steps 2 to 50 | 51 to 100 | 101 to 200 | peak memory, MiB (largest process / all) |
|---|---|---|---|---|---|---|---|---|
END
for image in busybox layers large; do
  times=()
  for count in 1 50 100 200; do
    time_steps $image $count
    times+=("$seconds")
  done
  awk -v image="$image" -v memory="$largest / $together" -v times="${times[*]}" 'BEGIN {
    split(times, t, " ")
    printf "| %s | %s | %s | %s | %s ", image, t[1], t[2], t[3], t[4]
    printf "| %d | %d | %d | %s |\n", (t[2] - t[1]) / 49 * 1000, (t[3] - t[2]) / 50 * 1000, (t[4] - t[3]) / 100 * 1000, memory
  }'
done
