# Prints the folder of the cache, from the root of the project. shared.paths.cache reads LABS_CACHE in the same way.
cache=${LABS_CACHE:-$HOME/.cache/inference-labs}
case $cache in # make and quoted words leave a ~ as it is
    "~") cache=$HOME ;;
    "~/"*) cache=$HOME/${cache#"~/"} ;;
    "~"*)
        printf '%s\nFix: %s\n' "LABS_CACHE=$cache names another user's home folder in a short form." \
            "write the path in full: export LABS_CACHE=/home/..." >&2
        exit 1
        ;;
esac
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac
printf '%s\n' "$cache"
