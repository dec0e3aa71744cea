#!/bin/sh
# Create the certificate of a NATS server if there is none, or if it ends within 30 days; prints "created" then.
# certificate.sh DIRECTORY HOST ADDRESS
set -eu
umask 077
directory=$1 host=$2 address=$3
base=$directory/nats/$host-$address
case $address in
*[!0-9.]*) names="DNS:$host,DNS:$address" ;;
*) names="DNS:$host,IP:$address" ;;
esac
mkdir -p "$directory/nats"
if [ ! -e "$directory/ca.pem" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=agentd NATS CA" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout "$directory/ca.key" -out "$directory/ca.pem" 2>/dev/null
fi
if [ -e "$base.pem" ] && openssl x509 -noout -checkend 2592000 -in "$base.pem" >/dev/null &&
    openssl verify -CAfile "$directory/ca.pem" "$base.pem" >/dev/null 2>&1; then
    exit 0
fi
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$host" -keyout "$base.new" -out "$base.csr" 2>/dev/null
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' \
    "$names" >"$base.ext"
openssl x509 -req -in "$base.csr" -CA "$directory/ca.pem" -CAkey "$directory/ca.key" -CAcreateserial -days 825 \
    -extfile "$base.ext" -out "$base.pem" 2>/dev/null
mv "$base.new" "$base.key"
rm "$base.csr" "$base.ext"
echo created
