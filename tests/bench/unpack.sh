# Unpacking: a large base image in five layers, beside `tar -xpzf` of the same files one after another; twice each, the better
# counts. What Karve takes is its own word for it (`unpacked`), since the build also fetches, reads and indexes the layers.
# Sourced, never run.
# shellcheck shell=bash
source "$bench/base.sh"
large_base
publish large "${large_layers[@]}"
mkdir -p "$scratch/unpack"
printf 'FROM %s/base/large:%s\nRUN true\n' "$registry" "$image_tag" >"$scratch/unpack/Dockerfile"

# unpack_with_tar: the floor
unpack_with_tar() {
  mkdir "$store/root"
  measure sh -c 'for layer; do tar -xpzf "$layer" -C "$store/root"; done' sh "${large_layers[@]}"
}

by_tar=- by_karve=- whole=- memory=
for round in 1 2; do
  fresh_store
  unpack_with_tar
  by_tar=$(faster "$by_tar" "$seconds")
  build karve unpack
  by_karve=$(faster "$by_karve" "$(sed -n 's/.*unpacked .* in \([0-9.]*\) s.*/\1/p' "$scratch/log" | head -1)")
  whole=$(faster "$whole" "$seconds")
  memory="$largest / $together"
done
echo
echo "A base image of $(stat --printf '%s\n' "${large_layers[@]}" | awk '{ sum += $1 } END { printf "%d", sum / 1e6 }') MB in five layers, $(du -sm "$store" | cut -f1) MB and $(wc -l <"$scratch/entries") entries unpacked:"
echo
echo '| `tar -xpzf`, s | Karve unpacks, s | ratio | the whole build of `RUN true`, s | peak memory, MiB (largest process / all) |'
echo '|---|---|---|---|---|'
echo "| $by_tar | $by_karve | $(ratio "$by_karve" "$by_tar") | $whole | $memory |"
