#!/bin/sh
# Create the certificate of each NATS server that has none, or one that ends within 30 days; prints the hosts.
# certificate.sh DIRECTORY [HOST ADDRESS]...
set -eu
umask 077
directory=$1
shift
mkdir -p "$directory/nats"
if [ ! -e "$directory/ca.pem" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=agentd NATS CA" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout "$directory/ca.key" -out "$directory/ca.pem" 2>/dev/null
fi

valid() { # FILE
    [ -e "$1" ] && openssl x509 -noout -checkend 2592000 -in "$1" >/dev/null &&
        openssl verify -CAfile "$directory/ca.pem" "$1" >/dev/null 2>&1
}

create() { # HOST ADDRESS FILE-WITHOUT-SUFFIX
    case $2 in
    *[!0-9.]*) names="DNS:$1,DNS:$2" ;;
    *) names="DNS:$1,IP:$2" ;;
    esac
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$3.new" -out "$3.csr" 2>/dev/null
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' \
        "$names" >"$3.ext"
    openssl x509 -req -in "$3.csr" -CA "$directory/ca.pem" -CAkey "$directory/ca.key" -CAcreateserial -days 825 \
        -extfile "$3.ext" -out "$3.pem" 2>/dev/null
    mv "$3.new" "$3.key"
    rm "$3.csr" "$3.ext"
    echo "$1"
}

while [ $# -gt 0 ]; do
    base=$directory/nats/$1-$2
    valid "$base.pem" || create "$1" "$2" "$base"
    shift 2
done
