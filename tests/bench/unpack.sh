# Unpacking: a large base image in five layers, beside `tar -xpzf` of the same files one after another; in turn, and the better
# of two counts. What Karve takes is its own word for it, since the build also fetches the layers and reads what they hold.
# Sourced, never run.
# shellcheck shell=bash
source "$bench/base.sh"
publish_large_base
mkdir -p "$scratch/unpack"
printf 'FROM %s/base/large:%s\nRUN true\n' "$registry" "$image_tag" >"$scratch/unpack/Dockerfile"

by_tar=- by_karve=- whole=-
for _ in 1 2; do
  fresh_store
  mkdir "$store/root"
  measure sh -c 'root=$1 && shift && for layer; do tar -xpzf "$layer" -C "$root"; done' sh "$store/root" "${large_layers[@]}"
  by_tar=$(faster "$by_tar" "$seconds")
  entries_unpacked=$(find "$store/root" | wc -l) megabytes=$(du -sm "$store/root" | cut -f1)
  build_alone "$scratch/unpack"
  whole=$(faster "$whole" "$seconds")
  seconds=$(sed -n 's/.*unpacked .* in \([0-9.]*\) s.*/\1/p' "$scratch/log" | head -1)
  by_karve=$(faster "$by_karve" "${seconds:--}")
done
cat <<END

A base image of five layers, $megabytes MB and $entries_unpacked entries on disk:

| \`tar -xpzf\`, s | Karve unpacks, s | ratio | the whole build of \`RUN true\` on it, s | peak memory, MiB (largest process / all) |
|---|---|---|---|---|
| $by_tar | $by_karve | $(ratio "$by_karve" "$by_tar") | $whole | $largest / $together |
END
